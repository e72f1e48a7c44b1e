//! Encrypted snapshots, as their owner uses them: the same answers with the key, and without it, or with a bit flipped anywhere, an error
//! that says what is wrong and never a token.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use support::models::{golden_folder, minilm, minilm_source, smollm2, smollm2_source};
use support::process::{self, run};
use support::{Serve, golden, pilotlight, until};
use tempfile::TempDir;

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";

struct House {
    folder: TempDir,
}

impl House {
    fn new() -> Self {
        Self::of(&golden_folder("llama3-tiny"))
    }

    fn of(source: &Path) -> Self {
        let house = Self { folder: TempDir::new().unwrap() };
        fs::write(house.at("operator.key"), KEY).unwrap();
        let (code, log) = house.seal_from(source, "m.snapshot", "operator.key");
        assert_eq!(code, Some(0), "{log}");
        house
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn seal(&self, out: &str, key: &str) -> (Option<i32>, String) {
        self.seal_from(&golden_folder("llama3-tiny"), out, key)
    }

    fn seal_from(&self, source: &Path, out: &str, key: &str) -> (Option<i32>, String) {
        let mut command = pilotlight();
        command.arg("seal").arg(source).arg("-o").arg(self.at(out));
        let (code, _, log) = run(command.arg("--encrypt-key").arg(self.at(key)));
        (code, log)
    }

    fn serve(&self, name: &str, key: Option<&str>) -> Serve {
        let model = format!("m={}", self.at(name).display());
        let key = key.map(|key| self.at(key).display().to_string());
        let words = key.iter().flat_map(|key| ["--decrypt-key", key]);
        Serve::start(&["--model", &model, "--idle", "60s"].into_iter().chain(words).collect::<Vec<_>>())
    }

    fn copy(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.at("m.snapshot")).unwrap();
        change(&mut bytes);
        for (to, bytes) in
            [(name.to_owned(), bytes), (format!("{name}.key"), fs::read(self.at("m.snapshot.key")).unwrap())]
        {
            let _ = fs::remove_file(self.at(&to));
            fs::write(self.at(&to), bytes).unwrap();
        }
    }
}

fn ask(server: &Serve) -> support::client::Response {
    let body = json!({"model": "m", "prompt": [5, 6, 7], "max_tokens": 6, "temperature": 0, "ignore_eos": true, "logprobs": 2,
        "return_tokens_as_token_ids": true});
    server.post("/v1/completions", &body)
}

fn refused(server: &Serve, says: &str) {
    let answer = ask(server);
    assert!(answer.status == 503 && answer.text().contains(says), "{says:?} in {}: {}", answer.status, answer.text());
}

#[test]
fn with_its_key_an_encrypted_snapshot_answers_as_the_plain_one_and_nothing_of_it_lies_there_in_the_clear() {
    let house = House::new();
    let plain_file = golden("llama3-tiny", "native");
    let plain = Serve::start(&["--model", &format!("m={}", plain_file.display())]);
    let expected = ask(&plain).json()["choices"].clone();
    assert!(expected.is_array());
    assert_eq!(ask(&house.serve("m.snapshot", Some("operator.key"))).json()["choices"], expected);
    let mode = |name: &str| fs::metadata(house.at(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("m.snapshot"), mode("m.snapshot.key")), (0o444, 0o400));
    let (clear, hidden) = (fs::read(&plain_file).unwrap(), fs::read(house.at("m.snapshot")).unwrap());
    let common = clear[4096..].chunks_exact(64).filter(|part| part.iter().any(|byte| *byte != 0));
    let found = common.step_by(97).filter(|part| hidden.windows(64).any(|window| window == *part)).count();
    assert_eq!(found, 0);
    let inspect = |words: &[&str]| run(pilotlight().arg("inspect").arg(house.at("m.snapshot")).args(words));
    let (code, _, log) = inspect(&[]);
    assert!(code == Some(65) && log.contains("--decrypt-key"), "{log}");
    let key = house.at("operator.key");
    let (code, out, log) = inspect(&["--decrypt-key", key.to_str().unwrap(), "--verify", "--json"]);
    assert_eq!(code, Some(0), "{log}");
    let digest = |text: &str| serde_json::from_str::<Value>(text).unwrap()["digest"].clone();
    let (_, plain, _) = run(pilotlight().arg("inspect").arg(&plain_file).arg("--json"));
    assert_eq!(digest(&out), digest(&plain), "the digest is the model's, encrypted or not");
}

#[test]
fn a_key_that_is_missing_wrong_or_removed_is_said_and_gives_no_token() {
    let house = House::new();
    refused(&house.serve("m.snapshot", None), "--decrypt-key");
    fs::write(house.at("other.key"), KEY.replace("00", "01")).unwrap();
    refused(&house.serve("m.snapshot", Some("other.key")), "another key");
    house.copy("unwrapped", |_| {});
    fs::write(house.at("unwrapped.key"), "no key").unwrap();
    refused(&house.serve("unwrapped", Some("operator.key")), "no wrapped key");
    assert_eq!(house.seal("second", "operator.key").0, Some(0));
    fs::copy(house.at("second"), house.at("second.copy")).unwrap();
    house.copy("foreign", |_| {});
    fs::remove_file(house.at("m.snapshot.key")).unwrap();
    refused(&house.serve("m.snapshot", Some("operator.key")), "not there any more");
    // Two snapshots of one model have keys of their own.
    fs::copy(house.at("second.key"), house.at("foreign.new")).unwrap();
    fs::rename(house.at("foreign.new"), house.at("foreign.key")).unwrap();
    refused(&house.serve("foreign", Some("operator.key")), "cannot be decrypted");
    fs::write(house.at("short.key"), "abc").unwrap();
    let (code, log) = house.seal("never", "short.key");
    assert!(code == Some(64) && log.contains("32 bytes") && !house.at("never").exists(), "{log}");
}

#[test]
fn a_flipped_bit_anywhere_or_a_cut_gives_an_error_and_no_token() {
    let house = House::new();
    let length = fs::metadata(house.at("m.snapshot")).unwrap().len() as usize;
    let places = [9, 100, 300, 4095, 4096, 5000, length / 3, length / 2, length * 3 / 4, length - 40, length - 1];
    for place in places {
        house.copy("bent", |bytes| bytes[place] ^= 0x20);
        let mut command = pilotlight();
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--decrypt-key"])
            .arg(house.at("operator.key"));
        command.arg("--model").arg(format!("m={}", house.at("bent").display()));
        // A header that cannot be read is said at once or when it is asked for.
        match Serve::try_spawn(command) {
            Ok(server) => {
                let answer = ask(&server);
                assert_eq!(answer.status, 503, "byte {place}: {}", answer.text());
                assert!(!answer.text().contains("panicked"), "byte {place}: {}", answer.text());
            }
            Err((code, log)) => assert!(code == Some(65) && !log.contains("panicked"), "byte {place}: {code:?}: {log}"),
        }
    }
    for left in [5000, length / 2, length - 1] {
        house.copy("cut", |bytes| bytes.truncate(left));
        refused(&house.serve("cut", Some("operator.key")), "truncated");
    }
    assert!(Path::new(&house.at("m.snapshot")).exists());
}

/// Of many pieces, which are decrypted as they are first read.
#[test]
fn a_real_model_answers_as_the_plain_one_from_its_first_life_on_and_a_bad_piece_gives_no_token() {
    let (Some(source), Some(plain)) = (smollm2_source(), smollm2()) else { return };
    let house = House::of(&source);
    let ask = |server: &Serve, tokens: usize| {
        let prompt: Vec<usize> = (0..tokens).map(|i| 1000 + i * 7919 % 40_000).collect();
        let body = json!({"model": "m", "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": true, "logprobs": 2});
        server.post("/v1/completions", &body)
    };
    let plain = Serve::start(&["--model", &format!("m={}", plain.display())]);
    // Alone, as few as are multiplied together, and many; each the first of its process.
    for tokens in [1, 5, 200] {
        let expected = ask(&plain, tokens).json()["choices"].clone();
        let server = house.serve("m.snapshot", Some("operator.key"));
        for life in ["a first answer", "a later one"] {
            assert!(expected.is_array() && ask(&server, tokens).json()["choices"] == expected, "{tokens}: {life}");
        }
    }
    let length = fs::metadata(house.at("m.snapshot")).unwrap().len() as usize;
    for place in [length / 2, length - 200_000] {
        house.copy("bent", |bytes| bytes[place] ^= 0x20);
        let answer = ask(&house.serve("bent", Some("operator.key")), 5);
        assert!(answer.status == 503 && answer.text().contains("cannot be decrypted"), "{place}: {}", answer.text());
    }
}

/// Its engine is another one, and reads it all the same.
#[test]
fn a_real_encoder_embeds_as_the_plain_one() {
    let (Some(source), Some(plain)) = (minilm_source(), minilm()) else { return };
    let house = House::of(&source);
    let embed = |server: &Serve| {
        let body = json!({"model": "m", "input": ["A lamp burns.", "low tide at noon, and nobody on the pier"]});
        server.post("/v1/embeddings", &body).json()["data"].clone()
    };
    let expected = embed(&Serve::start(&["--model", &format!("m={}", plain.display())]));
    assert!(expected.is_array() && embed(&house.serve("m.snapshot", Some("operator.key"))) == expected);
}

/// What a standby has ready is used for what is encrypted, and what is too much of it is given back; all of it where nothing is.
#[test]
fn memory_that_a_standby_has_ready_changes_no_answer_and_is_not_kept() {
    const READY_KIB: u64 = 64 << 10;
    let house = House::new();
    let plain = golden("llama3-tiny", "native");
    let (models, key) = ([&house.at("m.snapshot"), &plain], house.at("operator.key"));
    let answers = models.map(|model| {
        let model = format!("m={}", model.display());
        let words = ["--model", &model, "--idle", "60s", "--decrypt-key", key.to_str().unwrap()];
        let server = Serve::start(&[&words[..], &["--standby", "1", "--standby-memory", "64MiB"]].concat());
        let waiting = until("a standby with memory", || {
            let there = process::children(server.id()).into_iter();
            there.into_iter().find(|id| process::resident_kib(*id).is_some_and(|kib| kib >= READY_KIB))
        });
        let answer = ask(&server).json()["choices"].clone();
        // It has become the runtime, and the next one has its own.
        until("the rest is given back", || process::resident_kib(waiting).filter(|kib| *kib < READY_KIB));
        let is_next = |id: &u32| *id != waiting && process::resident_kib(*id).is_some_and(|kib| kib >= READY_KIB);
        until("the next standby", || process::children(server.id()).into_iter().find(is_next));
        answer
    });
    assert!(answers[0].is_array() && answers[0] == answers[1], "{answers:?}");
    let mut command = pilotlight();
    command.args(["serve", "--standby-memory", "1MiB", "--model"]).arg(format!("m={}", plain.display()));
    let (code, _, log) = run(&mut command);
    assert!(code == Some(64) && log.contains("--standby N"), "{code:?}: {log}");
}

/// A key service as small as one can be: what it wrapped it gives back for the same model alone.
const KEY_SERVICE: &str = r#"#!/bin/sh
read -r input
case "$1" in
wrap) echo "service $2 $(echo "$input" | tr 0123456789abcdef ghijklmnopqrstuv)" ;;
unwrap)
    set -- $input "$2"
    [ "$2" = "$4" ] || { echo "no grant for model $4" >&2; exit 3; }
    echo "$3" | tr ghijklmnopqrstuv 0123456789abcdef ;;
esac
"#;

#[test]
fn a_command_may_keep_the_operators_key_and_what_it_says_reaches_who_asked() {
    let house = House::new();
    let script = |name: &str, text: &str| {
        fs::write(house.at(name), text).unwrap();
        fs::set_permissions(house.at(name), fs::Permissions::from_mode(0o700)).unwrap();
        format!("command:{}", house.at(name).display())
    };
    let service = script("service", KEY_SERVICE);
    let seal = |out: &str, key: &str| {
        let mut command = pilotlight();
        command.arg("seal").arg(golden_folder("llama3-tiny")).arg("-o").arg(house.at(out)).args(["--encrypt-key", key]);
        let (code, _, log) = run(&mut command);
        (code, log)
    };
    let (code, log) = seal("served", &service);
    assert_eq!(code, Some(0), "{log}");
    assert!(fs::read_to_string(house.at("served.key")).unwrap().starts_with("service "));
    let serve = |name: &str, key: &str| {
        let model = format!("m={}", house.at(name).display());
        Serve::start(&["--model", &model, "--idle", "60s", "--decrypt-key", key])
    };
    let answer = ask(&serve("served", &service));
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Of another model, of none, and from programs that fail in their own ways.
    house.copy("foreign", |_| {});
    fs::remove_file(house.at("foreign.key")).unwrap();
    let other = format!("service {} {}\n", "00".repeat(32), "g".repeat(64));
    fs::write(house.at("foreign.key"), other).unwrap();
    refused(&serve("foreign", &service), "no grant for model");
    refused(
        &serve("served", &script("fails", "#!/bin/sh\necho the service is closed >&2\nexit 1\n")),
        "the service is closed",
    );
    refused(&serve("served", &script("babbles", "#!/bin/sh\necho hello\n")), "64 hexadecimal digits");
    refused(&serve("served", &script("floods", "#!/bin/sh\nexec head -c 100000 /dev/zero\n")), "more than");
    // Its pipe is held open by what it leaves behind, which ends with it.
    refused(&serve("served", &script("leaves", "#!/bin/sh\nsleep 1000 &\necho hello\n")), "64 hexadecimal digits");
    let (code, log) = seal("never", &script("mute", "#!/bin/sh\ncat > /dev/null\n"));
    assert!(code == Some(65) && log.contains("printed nothing") && !house.at("never").exists(), "{code:?}: {log}");
    let (code, log) = seal("never", "command:/nowhere/service");
    assert!(code == Some(66) && log.contains("/nowhere/service"), "{code:?}: {log}");
}
