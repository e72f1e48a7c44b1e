//! The first-token gate: computing may run ahead of the snapshot's verification, but no token leaves before it.

use tokio::sync::watch;

/// What is known about the snapshot's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Still being read.
    Pending,
    /// Every chunk is sound.
    Sound,
    /// A chunk is corrupt: section and offset.
    Corrupt(String),
}

/// A view of the verdict; cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate(watch::Receiver<Verdict>);

impl Gate {
    /// A pending gate and the one that decides it.
    pub fn new() -> (watch::Sender<Verdict>, Self) {
        let (sender, receiver) = watch::channel(Verdict::Pending);
        (sender, Self(receiver))
    }

    /// Not decided yet.
    pub fn is_pending(&self) -> bool {
        *self.0.borrow() == Verdict::Pending
    }

    /// Decided, and for the better.
    pub fn is_sound(&self) -> bool {
        *self.0.borrow() == Verdict::Sound
    }

    /// Waits for the decision.
    ///
    /// # Errors
    /// What is corrupt; or that nobody will decide any more.
    pub async fn passed(&mut self) -> Result<(), String> {
        match self.0.wait_for(|v| *v != Verdict::Pending).await.as_deref() {
            Ok(Verdict::Sound) => Ok(()),
            Ok(Verdict::Corrupt(what)) => Err(what.clone()),
            Ok(Verdict::Pending) | Err(_) => Err("the verification of the snapshot ended without a result".into()),
        }
    }
}
