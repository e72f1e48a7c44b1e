//! What the store promises, with real files, a real wheel archive and a real HTTP server on loopback.
#![allow(clippy::unwrap_used)]

mod from_hub;
mod from_path;
mod from_wheel;
mod guests;
mod hub_server;
pub(super) mod loopback;
mod names;
pub(super) mod registry;

use crate::{Hub, Origins, Progress, Store};
use std::{fs, path::Path};

/// A store whose origins are out of reach unless a test says otherwise.
pub(super) struct Fixture {
    pub(super) folder: tempfile::TempDir,
    pub(super) origins: Origins,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hub =
            Hub { endpoint: "http://127.0.0.1:9".into(), cache: folder.path().join("hub"), token: None, offline: true };
        Self { folder, origins: Origins { python: "/nonexistent/python".into(), hub } }
    }

    pub(super) fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("store")
    }

    pub(super) fn store(&self) -> Store {
        Store::open_with(&self.root(), self.origins.clone()).unwrap()
    }

    /// A file outside the store.
    pub(super) fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

pub(super) fn quiet(_: Progress) {}

/// No pull, whole or partial, can be seen or is left behind.
pub(super) fn assert_empty(fixture: &Fixture) {
    assert_eq!(fixture.store().list().unwrap(), []);
    for part in ["models", "incoming"] {
        assert_eq!(count(&fixture.root().join(part)), 0, "something was left in {part}");
    }
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}
