//! Names and sources: what is understood, and what is refused with advice.

use super::*;
use crate::{Error, catalogue, source::Source};

fn check_refused(source: &str, name: Option<&str>, code: u8, expected: &str) {
    let fixture = Fixture::new();
    let error = fixture.store().pull(source, name, &mut quiet).unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    assert_eq!(error.exit_code(), code, "{error}");
    assert_empty(&fixture);
}

#[test]
fn what_is_not_supported_says_what_to_do() {
    check_refused("oci://ghcr.io/a/b", None, 64, "oci:// is not supported yet: fetch it with `skopeo copy`");
    check_refused("s3://bucket/model", None, 64, "s3:// is not supported yet: fetch it with `aws s3 cp");
    check_refused("gopher://x", None, 64, "neither a catalogue name (smollm2)");
    check_refused("smollm3", None, 64, "\"smollm3\" is neither a catalogue name (smollm2)");
    check_refused("hf://owner", None, 64, "hf://owner/model[@revision]");
    check_refused("hf://owner/../etc", None, 64, "hf://owner/model[@revision]");
    check_refused("hf://owner/model@../../x", None, 64, "hf://owner/model[@revision]");
    check_refused("/dev/null", None, 65, "/dev/null: is neither a file nor a folder");
    check_refused("/etc/hostname", None, 65, "is neither a GGUF file nor a snapshot");
    check_refused("/usr", None, 65, "/usr: has no model*.safetensors");
}

#[test]
fn names_cannot_leave_the_store() {
    let fixture = Fixture::new();
    let source = fixture.file("m.gguf", b"GGUF");
    for name in ["", ".", "..", "../x", "a/b", "/etc", "-x", ".hidden", "a b", "a\0b", "é", &"a".repeat(129)] {
        let error = fixture.store().pull(&source, Some(name), &mut quiet).unwrap_err();
        assert!(matches!(error, Error::Name { .. }), "{name:?}: {error}");
        assert_eq!(fixture.store().get(name).unwrap(), None);
        assert!(matches!(fixture.store().remove(name), Err(Error::NotFound { .. })));
    }
    assert_empty(&fixture);
    let path = fixture.store().snapshot_path("../../x", "a/../b");
    assert_eq!(path, fixture.root().join("models/x..-..-x/a-..-b.snapshot"));
}

#[test]
fn sources_are_understood() {
    let hub =
        |repository: &str, revision: &str| Source::Hub { repository: repository.into(), revision: revision.into() };
    for (given, expected, name) in [
        ("smollm2", Source::Known(catalogue::find("smollm2").unwrap()), "smollm2"),
        ("hf://Qwen/Qwen3-0.6B", hub("Qwen/Qwen3-0.6B", "main"), "Qwen3-0.6B"),
        ("hf://a/b@refs/pr/1", hub("a/b", "refs/pr/1"), "b"),
        ("file:///usr", Source::Path("/usr".into()), "usr"),
        ("file:/usr/", Source::Path("/usr".into()), "usr"),
    ] {
        let source = Source::parse(given).unwrap();
        assert_eq!((&source, source.default_name().as_str()), (&expected, name));
    }
}

#[test]
fn a_token_is_never_printed() {
    let mut fixture = Fixture::new();
    fixture.origins.hub.token = Some("hf_secret".into());
    assert!(!format!("{:?}", fixture.store()).contains("secret"));
}
