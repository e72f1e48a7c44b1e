//! Guests that are handed over while the process lives.
//!
//! **Contract:** of several that are handed over in short order the last counts; what cannot be loaded changes nothing, and is told in the log.

use super::loader::{Keeping, Loader};
use crate::failure::Failure;
use guests::Chain;
use std::fs::File;
use tokio::sync::oneshot;

/// See the module.
#[derive(Default)]
pub struct Swap {
    /// The process's own.
    pub loader: Loader,
    handed: Option<File>,
    loading: Option<oneshot::Receiver<Result<Chain, Failure>>>,
}

impl Swap {
    /// To be loaded next, in place of what was to be.
    pub fn hand(&mut self, file: File) {
        self.handed = Some(file);
    }

    /// What is to be loaded next, for who does so.
    pub fn take(&mut self) -> Option<File> {
        self.handed.take()
    }

    /// Loads what was handed over, beside all else, unless something is loaded already.
    pub fn begin(&mut self, keeping: Keeping) {
        let Some(file) = self.handed.take_if(|_| self.loading.is_none()) else { return };
        let (told, loading) = oneshot::channel();
        let loader = self.loader.clone();
        // Where nobody waits any more the process is about to end.
        let load = move || drop(told.send(loader.handed(&file, &keeping)));
        match std::thread::Builder::new().name("guests".into()).spawn(load) {
            Ok(_) => self.loading = Some(loading),
            Err(error) => tracing::error!(%error, "new guests cannot be loaded: those that are there stay"),
        }
    }

    /// Guests, once they are loaded; never, where none are. Cancel-safe.
    pub async fn loaded(&mut self) -> Option<Chain> {
        let loaded = match &mut self.loading {
            Some(loading) => loading.await,
            None => std::future::pending().await,
        };
        self.loading = None;
        let failure = match loaded {
            Ok(Ok(chain)) => return Some(chain),
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => "loading them panicked".to_owned(),
        };
        tracing::error!(failure, "new guests cannot be loaded: those that are there stay");
        None
    }
}
