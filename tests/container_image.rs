//! The image: built from scratch without a daemon, run without one, asked from zero, and stopped.
//!
//! Checked: the image holds all that the binary loads; it runs as uid 65532, once under buildah's chroot isolation and
//! once in mount and process namespaces of its own with a root that is read-only but for `/tmp`. Not checked, for want of
//! a cluster: Kubernetes' own mounts, seccomp profile and probes.
#![allow(clippy::unwrap_used)]
mod support;

use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::process::{children, run};
use support::tools::{has, skip};
use support::{Serve, golden, until};
use tempfile::TempDir;

const TAG: &str = "localhost/pilotlight-test:latest";
const USER: &str = "65532:65532";

/// What the Service in the repository says, on ports that the system picks.
const SERVE: [&str; 9] = [
    "/pilotlight",
    "serve",
    "--listen",
    "127.0.0.1:0",
    "--admin",
    "127.0.0.1:0",
    "--model",
    "llama3-tiny=/models/llama3-tiny.snapshot",
    "--idle=1h",
];

/// Images and containers of one test, in a folder of their own.
struct Builder {
    folder: TempDir,
}

impl Builder {
    /// Words for buildah that need no daemon, no overlay file system and no set-up.
    fn words(&self) -> Vec<String> {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let words = ["buildah", "--root", &path("root"), "--runroot", &path("run"), "--storage-driver", "vfs"];
        words.map(str::to_owned).to_vec()
    }

    fn buildah(&self, arguments: &[&str]) -> Command {
        let words = self.words();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(arguments);
        command
    }

    /// Runs buildah and returns the last line it prints.
    fn must(&self, arguments: &[&str]) -> String {
        let (code, printed, said) = run(&mut self.buildah(arguments));
        assert_eq!(code, Some(0), "buildah {arguments:?}: {said}");
        printed.lines().last().unwrap_or_default().to_owned()
    }
}

/// The image in a container that has not run yet, with its root mounted; `None` after a named skip.
fn container() -> Option<(Builder, String, PathBuf)> {
    for (program, package) in [("buildah", "buildah"), ("unshare", "util-linux")] {
        if !has(program) {
            skip(&format!("needs {program}; on Debian: apt-get install {package}"));
            return None;
        }
    }
    if !rustix::process::getuid().is_root() {
        skip("building and running an image without a daemon needs root here");
        return None;
    }
    let builder = Builder { folder: tempfile::tempdir_in("/tmp").unwrap() };
    let build = format!("{} bud --isolation chroot", builder.words().join(" "));
    let mut image = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("knative/image"));
    image.arg(golden("llama3-tiny", "f32")).arg(TAG).env("BUILD", build);
    let (code, _, said) = run(image.env("PILOTLIGHT", env!("CARGO_BIN_EXE_pilotlight")));
    assert_eq!(code, Some(0), "knative/image: {said}");
    let container = builder.must(&["from", "--pull-never", TAG]);
    let root = builder.must(&["mount", &container]);
    Some((builder, container, root.into()))
}

fn answers_from_zero(server: &Serve) {
    assert_eq!(server.slot("llama3-tiny")["state"], "cold");
    let messages = json!([{ "role": "user", "content": "Hello" }]);
    let body = json!({ "model": "llama3-tiny", "messages": messages, "max_tokens": 4, "ignore_eos": true });
    let answer = server.post("/v1/chat/completions", &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["usage"]["completion_tokens"], 4, "{}", answer.text());
    assert_eq!(answer.json()["timings"]["cold"], true, "{}", answer.text());
}

/// The process of this executable below another one.
fn descendant(of: u32, executable: &str) -> Option<u32> {
    children(of).into_iter().find_map(|child| {
        let found = std::fs::read_link(format!("/proc/{child}/exe")).is_ok_and(|exe| exe.ends_with(executable));
        if found { Some(child) } else { descendant(child, executable) }
    })
}

fn uids(id: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap().trim().to_owned()
}

fn terminate(id: u32) {
    let id = rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
}

#[test]
fn the_image_answers_a_chat_from_zero_as_a_non_root_user_and_exits_0_on_sigterm() {
    let Some((builder, container, _)) = container() else { return };
    let mut command = builder.buildah(&["run", "--isolation", "chroot", "--user", USER, &container, "--"]);
    command.args(SERVE);
    let mut server = Serve::spawn(command);
    answers_from_zero(&server);
    let activator = until("the container's process", || descendant(server.id(), "pilotlight"));
    assert_eq!(uids(activator), "65532\t65532\t65532\t65532");
    terminate(activator);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

#[test]
fn the_image_runs_with_a_read_only_root_and_nothing_to_write_but_tmp() {
    let Some((_builder, _, root)) = container() else { return };
    // What a kubelet does, in the kernel's own words: own mounts and processes, root read-only, /tmp empty and writable.
    let script = r#"
        mount --bind "$0" "$0"
        mount -o remount,bind,ro "$0"
        mount -t proc proc "$0/proc"
        mount -t tmpfs -o mode=1777 tmpfs "$0/tmp"
        mount -t tmpfs -o mode=0755 tmpfs "$0/dev"
        for device in null zero urandom; do
            touch "$0/dev/$device"
            mount --bind "/dev/$device" "$0/dev/$device"
        done
        exec chroot --userspec="$1" "$0" "${@:2}"
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "bash", "-euc", script]);
    command.arg(&root).arg(USER).args(SERVE).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let mut server = Serve::spawn(command);
    let activator = until("the container's process", || descendant(server.id(), "pilotlight"));
    let mounts = std::fs::read_to_string(format!("/proc/{activator}/mounts")).unwrap();
    assert!(mounts.lines().any(|line| root_options(line).is_some_and(|options| options.starts_with("ro"))), "{mounts}");
    answers_from_zero(&server);
    assert_eq!(uids(activator), "65532\t65532\t65532\t65532");
    terminate(activator);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

/// The options of the root's mount, as the process sees it.
fn root_options(line: &str) -> Option<&str> {
    let fields: Vec<&str> = line.split(' ').collect();
    (fields[1] == "/").then(|| fields[3])
}
