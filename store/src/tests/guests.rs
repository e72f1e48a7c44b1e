//! Guests from a registry.

use super::{
    Fixture, quiet,
    registry::{Registry, manifest, sha256},
};
use crate::Error;
use std::fs;

const COMPONENT: &[u8] = b"\0asm a component, as far as a registry cares";

#[test]
fn a_guest_is_fetched_once_and_is_what_its_digest_says() {
    let (fixture, registry) = (Fixture::new(), Registry::start());
    let pinned = registry.pinned(&registry.push(COMPONENT));
    let mut steps = Vec::new();
    let guest = fixture.store().guest(&pinned, &mut |at| steps.push(at)).unwrap();
    assert_eq!((fs::read(&guest.component).unwrap().as_slice(), &guest.pinned), (COMPONENT, &pinned));
    assert!(guest.component.starts_with(fixture.root()) && steps[0].step.contains(&pinned));
    assert_eq!(steps.last().unwrap().total, Some(COMPONENT.len() as u64));
    let asked = registry.asked();
    drop(registry);
    assert_eq!(fixture.store().guest(&pinned, &mut quiet).unwrap(), guest, "without a network");
    assert!(asked >= 2);
}

#[test]
fn a_tag_is_looked_up_by_who_pulls_and_refused_by_who_deploys() {
    let (fixture, registry) = (Fixture::new(), Registry::start());
    let digest = registry.push(COMPONENT);
    let refused = fixture.store().guest(&registry.tagged(), &mut quiet).unwrap_err();
    assert!(matches!(refused, Error::Unpinned { .. }) && refused.exit_code() == 64, "{refused}");
    let guest = fixture.store().pull_guest(&registry.tagged(), &mut quiet).unwrap();
    assert_eq!(guest.pinned, registry.pinned(&digest));
    registry.push(b"another one");
    assert_ne!(fixture.store().pull_guest(&registry.tagged(), &mut quiet).unwrap(), guest);
    assert_eq!(fs::read(fixture.store().guest(&guest.pinned, &mut quiet).unwrap().component).unwrap(), COMPONENT);
}

#[test]
fn what_was_changed_on_disk_is_fetched_again() {
    let (fixture, registry) = (Fixture::new(), Registry::start());
    let pinned = registry.pinned(&registry.push(COMPONENT));
    let guest = fixture.store().guest(&pinned, &mut quiet).unwrap();
    for wrong in [&b"something else"[..], b""] {
        fs::write(&guest.component, wrong).unwrap();
        fixture.store().guest(&pinned, &mut quiet).unwrap();
        assert_eq!(fs::read(&guest.component).unwrap(), COMPONENT);
    }
    fs::write(guest.component.with_extension("json"), b"{}").unwrap();
    fixture.store().guest(&pinned, &mut quiet).unwrap();
    fs::write(&guest.component, b"something else").unwrap();
    drop(registry);
    assert_eq!(fixture.store().guest(&pinned, &mut quiet).unwrap_err().exit_code(), 69, "nobody to ask");
}

#[test]
fn what_cannot_be_a_guest_is_refused_and_leaves_nothing() {
    let (fixture, registry) = (Fixture::new(), Registry::start());
    let store = fixture.store();
    let refused = |address: &str| store.guest(address, &mut quiet).unwrap_err();
    let (digest, size) = (sha256(COMPONENT), COMPONENT.len() as u64);
    registry.blob(&digest, COMPONENT);
    let wasm = "application/wasm";
    for (layers, why) in [
        (vec![], "0 layers of application/wasm"),
        (vec![("application/tar", digest.as_str(), size)], "0 layers"),
        (vec![(wasm, &digest, size), (wasm, &digest, size)], "2 layers"),
        (vec![(wasm, &digest, 1 << 40)], "the limit is"),
        (vec![(wasm, &digest, size - 1)], "more came than"),
    ] {
        let error = refused(&registry.pinned(&registry.push_manifest(&manifest(&layers))));
        assert!(error.exit_code() == 65 && error.to_string().contains(why), "{why}: {error}");
    }
    let pinned = registry.pinned(&registry.push(COMPONENT));
    registry.blob(&digest, b"\0asm a component, as far as a registry lies");
    assert_eq!(refused(&pinned).exit_code(), 65);
    let unknown = registry.pinned(&sha256(b"nothing"));
    assert_eq!(refused(&unknown).exit_code(), 69, "{}", refused(&unknown));
    let components = fs::read_dir(fixture.root().join("guests")).unwrap();
    let is_component = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|ending| ending == "wasm");
    assert_eq!(components.map(|entry| entry.unwrap()).filter(is_component).count(), 0);
    for address in ["oci://", "oci://a/b@sha256:12", "ghcr.io/a/b", "oci://a/b@md5:00", "oci://a b/c"] {
        assert_eq!(refused(address).exit_code(), 65, "{address}");
    }
}
