//! Guests that a configuration names: deployed without sealing, exchanged while requests run, told in `/slots` and the audit, and what the durable
//! among them keep.
#![allow(clippy::unwrap_used)]

#[path = "../store/src/tests/loopback.rs"]
mod loopback;
#[path = "../store/src/tests/registry.rs"]
mod registry;
mod support;
#[path = "../guests/tests/support/mod.rs"]
mod wasm;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use support::process::{pilotlight, run};
use support::server::JSON;
use support::{Serve, client, golden, until};
use wasm::{PASS, text_guest, text_guest_with};

/// Says `<!>` in place of each text.
fn shouts() -> Vec<u8> {
    text_guest("(call $answer (local.get $len) (i32.ne (local.get $len) (i32.const 0)) (i32.const 0))")
}

/// Passes each text on after so many rounds.
fn slow(rounds: u32) -> Vec<u8> {
    let counts = format!(
        "(global.set $i (i32.const {rounds})) (loop $l (global.set $i (i32.sub (global.get $i) (i32.const 1))) (br_if $l (global.get $i)))"
    );
    text_guest_with("(global $i (mut i32) (i32.const 0))", &format!("{counts} {PASS}"))
}

/// Ends the only runtime.
fn kill(server: &Serve) {
    let pid = server.slot("g")["replicas"][0]["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn digest(component: &[u8]) -> String {
    Sha256::digest(component).iter().fold("sha256:".to_owned(), |all, byte| all + &format!("{byte:02x}"))
}

/// A folder with a configuration of one model.
struct Folder {
    folder: tempfile::TempDir,
    /// Of the configuration before the model's own.
    general: &'static str,
}

impl Folder {
    fn new(general: &'static str) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), general }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As editors do: in one step.
    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path("beside"), bytes).unwrap();
        std::fs::rename(self.path("beside"), self.path(name)).unwrap();
    }

    fn guest(&self, name: &str, component: &[u8], manifest: &str) {
        self.write(&format!("{name}.wasm"), component);
        self.write(&format!("{name}.toml"), format!("component = \"{name}.wasm\"\n{manifest}").as_bytes());
    }

    /// `guests`: what the model's line says, if it has one.
    fn configure(&self, guests: &str) -> PathBuf {
        self.configure_of(&golden("llama3-tiny", "native"), guests)
    }

    fn configure_of(&self, snapshot: &Path, guests: &str) -> PathBuf {
        let model = format!("[models.g]\nsnapshot = \"{}\"\n{guests}\n", snapshot.display());
        self.write("pilotlight.toml", format!("{}\n{model}", self.general).as_bytes());
        self.path("pilotlight.toml")
    }

    fn serve(&self, more: &[&str]) -> Serve {
        Serve::spawn(self.command(more))
    }

    fn command(&self, more: &[&str]) -> std::process::Command {
        let file = self.path("pilotlight.toml");
        let mut command = pilotlight();
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"]).arg(file).args(more);
        // A cache of its own, so that nobody's before is found.
        command.env("XDG_CACHE_HOME", self.path("cache")).env("PILOTLIGHT_HOME", self.path("store"));
        command
    }
}

fn says(text: &str, stream: bool) -> Value {
    let literal = text.replace('.', "\\.");
    json!({"model": "g", "prompt": [5, 9, 12], "max_tokens": 200, "seed": 1, "temperature": 2, "stream": stream, "guided_regex": literal})
}

fn ask(server: &Serve, text: &str) -> String {
    let answer = server.post("/v1/completions", &says(text, false));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["choices"][0]["text"].as_str().unwrap().to_owned()
}

const LONG: &str = "one two three four five six seven eight nine ten eleven twelve";

/// A stream of the long text, to its end: what came of it, and an error. Something is done once there is something of it.
fn follow(server: &Serve, once: impl FnOnce()) -> (String, Option<Value>) {
    let body = says(LONG, true).to_string();
    let mut events = client::open(server.api, "POST", "/v1/completions", JSON, body.as_bytes()).unwrap();
    let (mut seen, mut error, mut once) = (String::new(), None, Some(once));
    while let Some(data) = events.event().unwrap() {
        let Ok(event) = serde_json::from_str::<Value>(&data) else { continue };
        seen += event["choices"][0]["text"].as_str().unwrap_or_default();
        error = event.get("error").cloned().or(error);
        if let Some(once) = once.take_if(|_| !seen.is_empty()) {
            once();
        }
    }
    assert!(once.is_none(), "nothing came");
    (seen, error)
}

/// Names and digests of the only runtime's guests.
fn guests_of(server: &Serve) -> Value {
    server.slot("g")["replicas"][0]["guests"].clone()
}

#[test]
fn guests_are_exchanged_while_a_stream_goes_on_and_the_audit_knows_which() {
    let folder = Folder::new("idle = \"60s\"\naudit = \"audit.jsonl\"");
    // The stream is under way when others come.
    let slow = slow(4_000_000);
    folder.guest("first", &slow, "budgets = { text_ms = 1000 }");
    folder.configure("guests = [\"first.toml\"]");
    let mut server = folder.serve(&[]);
    let (seen, error) = follow(&server, || {
        let old = guests_of(&server);
        assert_eq!(old, json!([{"name": "first", "digest": digest(&slow)}]));
        let pid = server.slot("g")["replicas"][0]["pid"].clone();
        folder.guest("first", &shouts(), "");
        until("other guests", || (guests_of(&server) != old).then_some(()));
        assert_eq!(server.slot("g")["replicas"][0]["pid"], pid, "in the same process");
        assert_eq!(ask(&server, "7"), "<!>");
    });
    let body = json!({"model": "g", "prompt": "<!>", "add_special_tokens": false});
    let tokens = server.post("/tokenize", &body).json()["count"].clone();
    assert_eq!((seen.as_str(), error), (LONG, None), "what had begun kept its own");
    assert_eq!(guests_of(&server), json!([{"name": "first", "digest": digest(&shouts())}]));
    server.terminate();
    assert!(server.wait().success());
    let text = std::fs::read_to_string(folder.path("audit.jsonl")).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.retain(|line| line["path"] == "/v1/completions");
    lines.sort_by_key(|line| line["at_ms"].as_u64());
    let guests: Vec<&Value> = lines.iter().map(|line| &line["guests"]).collect();
    assert_eq!(guests, [&json!(digest(&slow)), &json!(digest(&shouts()))]);
    assert_eq!(lines[1]["completion_tokens"], tokens, "of what the client got");
    let verified = run(pilotlight().args(["audit", "verify"]).arg(folder.path("audit.jsonl")));
    assert_eq!(verified.0, Some(0), "{verified:?}");
}

#[test]
fn a_configurations_guests_are_in_place_of_the_snapshots_own() {
    let folder = Folder::new("idle = \"60s\"");
    folder.write("shouts.wasm", &shouts());
    let sealed = folder.path("sealed.snapshot");
    let mut seal = pilotlight();
    seal.arg("seal").arg(support::models::golden_folder("llama3-tiny")).arg("-o").arg(&sealed);
    let (code, _, errors) = run(seal.arg("--guest").arg(folder.path("shouts.wasm")));
    assert_eq!(code, Some(0), "{errors}");
    folder.configure_of(&sealed, "guests = []");
    let server = folder.serve(&[]);
    assert_eq!(ask(&server, "7"), "7", "none at all");
    assert_eq!(guests_of(&server), json!([]));
    folder.configure_of(&sealed, "");
    until("its own guests", || (ask(&server, "7") == "<!>").then_some(()));
    let one = json!([{"name": "shouts", "digest": digest(&shouts())}]);
    until("one runtime", || (guests_of(&server) == one).then_some(()));
    folder.guest("redact", &wasm::redact(), "");
    folder.configure_of(&sealed, "guests = [\"redact.toml\"]");
    until("a redacted text", || (ask(&server, "a ada@example.com b") == "a [email] b").then_some(()));
}

#[test]
fn guests_that_cannot_be_are_told_at_the_start_and_change_nothing_later() {
    let folder = Folder::new("idle = \"60s\"");
    let refused = |guests: &str| {
        let file = folder.configure(guests);
        let mut command = pilotlight();
        command.env("XDG_CACHE_HOME", folder.path("cache"));
        let (code, _, errors) = run(command.args(["config", "check"]).arg(file));
        (code, errors)
    };
    folder.guest("good", &shouts(), "");
    folder.guest("wrong", b"no component", "");
    let (code, said) = refused("guests = [\"good.toml\", \"wrong.toml\"]");
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("models.g.guests") && said.contains("the guest 'wrong'"), "{said}");
    let (code, said) = refused("guests = [\"good.toml\", \"good.toml\"]");
    assert!(code == Some(64) && said.contains("two guests have the name 'good'"), "{said}");
    assert_eq!(refused("guests = [\"nowhere.toml\"]").0, Some(66));
    assert_eq!(refused("guests = \"good.toml\"").0, Some(64));
    folder.configure("guests = [\"good.toml\"]");
    let server = folder.serve(&[]);
    assert_eq!(ask(&server, "7"), "<!>");
    folder.guest("good", b"no component any more", "");
    until("a word in the log", || server.log().contains("the old one stays").then_some(()));
    assert_eq!(ask(&server, "7"), "<!>");
    folder.guest("good", &text_guest(PASS), "");
    until("the next guest", || (ask(&server, "7") == "7").then_some(()));
    // What was compiled is kept for the next time, and nobody else's business.
    let cache = folder.path("cache").join("pilotlight/guests");
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 2);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o777)).unwrap();
    let (code, said) = refused("guests = [\"good.toml\"]");
    assert!(code != Some(0) && said.contains("others can write into it"), "{said}");
}

fn quota(requests: u32, more: &str) -> (Vec<u8>, String) {
    let component = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/guest-sdk/examples/quota/quota.wasm")).unwrap();
    (component, format!("grants = [\"host\", \"state\"]\nconfig = {{ requests = \"{requests}\" }}\n{more}"))
}

/// The statuses of so many requests by one user.
fn statuses(server: &Serve, user: &str, times: usize) -> Vec<u16> {
    let body = json!({"model": "g", "prompt": [5, 9], "max_tokens": 1, "user": user});
    (0..times).map(|_| server.post("/v1/completions", &body).status).collect()
}

#[test]
fn what_a_durable_guest_keeps_outlives_its_runtimes_and_nothing_else_does() {
    let folder = Folder::new("idle = \"300ms\"");
    let kept = folder.path("kv");
    for (durable, later) in [(true, [200, 429]), (false, [200, 200])] {
        let (component, manifest) = quota(2, &format!("durable = {durable}"));
        folder.guest("quota", &component, &manifest);
        folder.configure("guests = [\"quota.toml\"]");
        let server = folder.serve(&["--kv-dir", kept.to_str().unwrap()]);
        let user = format!("durable {durable}");
        assert_eq!(statuses(&server, &user, 1), [200]);
        server.until_slot("g", "cold");
        assert_eq!(statuses(&server, &user, 2), later, "durable: {durable}");
        assert_eq!(statuses(&server, "another", 1), [200]);
        server.until_slot("g", "cold");
    }
    // Another activator, too; and one that is killed loses nothing that was counted.
    let (component, manifest) = quota(2, "durable = true");
    folder.guest("quota", &component, &manifest);
    let server = folder.serve(&["--kv-dir", kept.to_str().unwrap(), "--idle", "60s"]);
    assert_eq!(statuses(&server, "durable true", 1), [429]);
    assert_eq!(statuses(&server, "killed", 1), [200]);
    kill(&server);
    until("its end", || (server.slot("g")["state"] == "cold").then_some(()));
    assert_eq!(statuses(&server, "killed", 2), [200, 429]);
    // On disk nobody reads who asked.
    for entry in std::fs::read_dir(&kept).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"killed"));
    }
}

#[test]
fn a_durable_guest_without_a_place_is_refused_and_told() {
    let folder = Folder::new("idle = \"60s\"");
    let (component, manifest) = quota(2, "durable = true");
    folder.guest("quota", &component, &manifest);
    let file = folder.configure("guests = [\"quota.toml\"]");
    let refused = Serve::try_spawn(folder.command(&[])).err().unwrap();
    assert!(
        refused.0 == Some(64) && refused.1.contains("'quota' is durable") && refused.1.contains("--kv-dir"),
        "{refused:?}"
    );
    let (code, said, errors) =
        run(pilotlight().args(["config", "check"]).arg(file).env("XDG_CACHE_HOME", folder.path("cache")));
    assert_eq!(code, Some(0), "{said}{errors}");
    // One that came with its snapshot is found out by the runtime.
    let sealed = folder.path("sealed.snapshot");
    let mut seal = pilotlight();
    seal.arg("seal").arg(support::models::golden_folder("llama3-tiny")).arg("-o").arg(&sealed);
    assert_eq!(run(seal.arg("--guest").arg(folder.path("quota.toml"))).0, Some(0));
    folder.configure_of(&sealed, "");
    let server = folder.serve(&[]);
    let refused = server.post("/v1/completions", &json!({"model": "g", "prompt": [5, 9], "max_tokens": 1}));
    assert!(refused.status >= 500 && refused.text().contains("--kv-dir"), "{} {}", refused.status, refused.text());
    // Guests that can be are the end of that.
    folder.configure_of(&sealed, "guests = []");
    until("an answer", || (server.post("/v1/completions", &says("7", false)).status == 200).then_some(()));
}

#[test]
fn a_guest_from_a_registry_is_pinned_by_digest_and_needs_it_once() {
    let (folder, registry) = (Folder::new("idle = \"60s\""), registry::Registry::start());
    let pinned = registry.pinned(&registry.push(&shouts()));
    let pilotlight = |words: &[&str]| {
        let mut command = pilotlight();
        command.env("XDG_CACHE_HOME", folder.path("cache")).env("PILOTLIGHT_HOME", folder.path("store"));
        run(command.args(words))
    };
    let (code, said, _) = pilotlight(&["guest", "pull", &registry.tagged()]);
    assert_eq!((code, said.trim()), (Some(0), pinned.as_str()));
    folder.write("from.toml", format!("component = \"{pinned}\"\n").as_bytes());
    folder.write("tagged.toml", format!("component = \"{}\"\n", registry.tagged()).as_bytes());
    let file = folder.configure("guests = [\"tagged.toml\"]");
    let (code, _, errors) = pilotlight(&["config", "check", file.to_str().unwrap()]);
    assert!(code == Some(64) && errors.contains("is not pinned by a digest"), "{errors}");
    drop(registry);
    folder.configure("guests = [\"from.toml\"]");
    let server = folder.serve(&[]);
    assert_eq!(ask(&server, "7"), "<!>");
    assert_eq!(guests_of(&server), json!([{"name": "from", "digest": digest(&shouts())}]));
    folder.configure(&format!("guests = [\"{pinned}\"]"));
    until("its own name", || (guests_of(&server)[0]["name"] == "guest").then_some(()));
}

/// Bytes of all that guests keep in this folder.
fn bytes_in(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let state = files.filter(|file| file.file_name().to_string_lossy().contains(".state-"));
    state.map(|file| file.metadata().unwrap().len()).sum()
}

/// A request whose runtime is killed while it runs.
fn lose_a_request(manifest: &str) -> (u16, Value, Serve, Folder) {
    let folder = Folder::new("idle = \"60s\"");
    let (quota, quota_manifest) = quota(100, &format!("durable = true\n{manifest}"));
    folder.guest("quota", &quota, &quota_manifest);
    let slow = slow(40_000_000);
    folder.guest("slow", &slow, "replayable = true\nbudgets = { text_ms = 1000 }");
    folder.configure("guests = [\"quota.toml\", \"slow.toml\"]");
    let server = folder.serve(&["--kv-dir", folder.path("kv").to_str().unwrap()]);
    server.post("/tokenize", &json!({"model": "g", "prompt": "a"}));
    let before = bytes_in(&folder.path("kv"));
    let body = says(LONG, false);
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| server.post("/v1/completions", &body));
        // Its last guest takes half a second for all of it, from when its first has counted it.
        until("the request is counted", || (bytes_in(&folder.path("kv")) > before).then_some(()));
        kill(&server);
        asked.join().unwrap()
    });
    (answer.status, answer.json(), server, folder)
}

#[test]
fn a_request_that_lost_its_runtime_is_shown_again_only_to_guests_that_may_see_it_twice() {
    let (status, answer, _server, _folder) = lose_a_request("replayable = true");
    assert_eq!(status, 200, "{answer}");
    assert!(answer["choices"][0]["text"].as_str().unwrap().starts_with("one two three"));
    let (status, answer, server, _folder) = lose_a_request("replayable = false");
    assert_eq!((status, answer["error"]["code"].as_str()), (503, Some("not_replayable")), "{answer}");
    assert_eq!(server.metric("requests_lost_total{model=\"g\",outcome=\"given_up\"}"), 1);
}

#[test]
fn a_stream_that_lost_its_runtime_does_not_go_on_with_other_guests() {
    let folder = Folder::new("idle = \"60s\"");
    let slow = slow(40_000_000);
    folder.guest("first", &slow, "replayable = true\nbudgets = { text_ms = 1000 }");
    folder.configure("guests = [\"first.toml\"]");
    let server = folder.serve(&[]);
    let (seen, error) = follow(&server, || {
        folder.guest("first", &shouts(), "replayable = true");
        let new = json!([{"name": "first", "digest": digest(&shouts())}]);
        until("other guests", || (guests_of(&server) == new).then_some(()));
        kill(&server);
    });
    assert!(LONG.starts_with(&seen) && seen.len() < LONG.len(), "{seen}");
    assert!(
        error.unwrap()["message"].as_str().unwrap().contains("its guests"),
        "and nothing of what the others would say"
    );
}

#[test]
fn a_guest_that_is_slow_with_one_answer_keeps_nobody_else_waiting() {
    let folder = Folder::new("idle = \"60s\"");
    let slow = slow(40_000_000);
    folder.guest("slow", &slow, "budgets = { text_ms = 1000 }");
    folder.configure("guests = [\"slow.toml\"]");
    let server = folder.serve(&[]);
    let others = std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&server, LONG));
        until("it runs", || (server.slot("g")["in_flight"] == 1 && !guests_of(&server).is_null()).then_some(()));
        let mut answers = 0;
        while !asked.is_finished() {
            assert_eq!(server.post("/tokenize", &json!({"model": "g", "prompt": "a"})).status, 200);
            answers += 1;
        }
        assert_eq!(asked.join().unwrap(), LONG);
        answers
    });
    // One text of the guest takes as long as many of these.
    assert!(others > 30, "{others} other requests were answered meanwhile");
}
