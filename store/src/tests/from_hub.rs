//! Pulling `hf://`: from a server on loopback, and from the cache it filled.

use super::{
    hub_server::{COMMIT, Files, HubServer},
    *,
};
use crate::{Error, copy::hex};
use sha2::{Digest, Sha256};

fn files() -> Files {
    let weights: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    let digest = hex(&Sha256::digest(&weights));
    Files::from([
        ("config.json", (b"{}".to_vec(), "a".repeat(40))),
        ("tokenizer.json", (b"{\"t\": 1}".to_vec(), "b".repeat(40))),
        ("model.safetensors", (weights, digest)),
        ("pytorch_model.bin", (b"pickle".to_vec(), "c".repeat(40))),
        ("README.md", (b"# read me".to_vec(), "d".repeat(40))),
    ])
}

fn online(server: &HubServer, token: Option<&str>) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.origins.hub.endpoint = server.endpoint() + "/";
    fixture.origins.hub.offline = false;
    fixture.origins.hub.token = token.map(str::to_owned);
    fixture
}

#[test]
fn a_model_is_pulled_pinned_to_a_commit_and_again_from_the_cache() {
    let server = HubServer::start("Acme/Tiny", None, files());
    let mut fixture = online(&server, None);
    let mut steps = Vec::new();
    let entry = fixture.store().pull("hf://Acme/Tiny", None, &mut |progress| steps.push(progress)).unwrap();
    assert_eq!((entry.name.as_str(), entry.revision.as_deref()), ("Tiny", Some(COMMIT)));
    let names: Vec<_> = entry.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(fs::read(entry.path.join("model.safetensors")).unwrap(), files()["model.safetensors"].0);
    assert_eq!(entry.files[1].sha256, files()["model.safetensors"].1);
    assert!(steps.iter().any(|step| {
        step.step == "downloading model.safetensors (Acme/Tiny)" && (step.done, step.total) == (100_000, Some(100_000))
    }));
    assert!(server.asked().iter().all(|path| !path.contains("pytorch_model")), "code may hide in pickles");

    drop(server);
    fixture.store().remove("Tiny").unwrap();
    fixture.origins.hub.offline = true;
    for source in [&format!("hf://Acme/Tiny@{COMMIT}"), "hf://Acme/Tiny"] {
        let again = fixture.store().pull(source, None, &mut quiet).unwrap();
        assert_eq!((again.sha256, again.revision), (entry.sha256.clone(), entry.revision.clone()));
    }
}

fn check_refused(server: &HubServer, token: Option<&str>, source: &str, code: u8, expected: &str) {
    let fixture = online(server, token);
    let error = fixture.store().pull(source, None, &mut quiet).unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    assert_eq!(error.exit_code(), code, "{error}");
    assert_empty(&fixture);
}

#[test]
fn a_private_model_needs_its_token() {
    let server = HubServer::start("Acme/Tiny", Some("hf_right"), files());
    online(&server, Some("hf_right")).store().pull("hf://Acme/Tiny", None, &mut quiet).unwrap();
    for token in [None, Some("hf_wrong")] {
        check_refused(&server, token, "hf://Acme/Tiny", 69, "set HF_TOKEN to a token that may read it");
    }
}

#[test]
fn what_the_hub_does_not_have_is_said() {
    let mut without_weights = files();
    without_weights.remove("model.safetensors");
    let server = HubServer::start("Acme/Tiny", None, without_weights);
    check_refused(&server, None, "hf://Acme/Tiny", 65, "hf://Acme/Tiny: has no model*.safetensors");
    check_refused(&server, None, "hf://Acme/Tiny@other", 69, "no such repository, revision or file");
    check_refused(&server, None, "hf://Acme/Other", 69, "no such repository, revision or file");
    let mut gone = online(&server, None);
    drop(server);
    let error = gone.store().pull("hf://Acme/Tiny", None, &mut quiet).unwrap_err();
    assert!(
        error.to_string().contains("not reachable") && error.to_string().contains("pilotlight pull FOLDER"),
        "{error}"
    );
    gone.origins.hub.offline = true;
    let error = gone.store().pull("hf://Acme/Tiny", None, &mut quiet).unwrap_err();
    assert!(error.to_string().contains("HF_HUB_OFFLINE is set"), "{error}");
    assert_empty(&gone);
}

#[test]
fn weights_that_are_not_what_the_hub_named_are_refused() {
    let mut wrong = files();
    wrong.get_mut("model.safetensors").unwrap().0[500] ^= 1;
    let server = HubServer::start("Acme/Tiny", None, wrong);
    let fixture = online(&server, None);
    let error = fixture.store().pull("hf://Acme/Tiny", None, &mut quiet).unwrap_err();
    assert!(matches!(&error, Error::Digest { advice, .. } if advice.contains("remove")), "{error}");
    assert_empty(&fixture);
}
