//! The official `openai` Python package, the judge of compatibility, against `serve` from zero.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;
use support::process::run;
use support::{Serve, smollm2, test_tools};

#[test]
fn the_openai_client_chats_and_completes_streaming_and_not_from_zero() {
    let (Some(python), Some(snapshot)) = (test_tools(), smollm2()) else { return };
    let server = Serve::start(&["--model", &format!("smollm2={}", snapshot.display()), "--idle", "300ms"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openai_client.py");
    let (code, said, errors) = run(Command::new(python)
        .arg(script)
        .arg(format!("http://{}/v1", server.api))
        .arg(format!("http://{}/slots", server.admin))
        .arg("smollm2"));
    println!("{said}");
    assert_eq!(code, Some(0), "{said}\n{errors}");
    assert_eq!(said.lines().filter(|line| line.starts_with("ok ")).count(), 10, "every check ran: {said}");
}
