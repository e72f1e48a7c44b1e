//! Where what durable guests keep outlives its process: the seam between [`crate::State`] and a file.

use crate::state::Scope;

/// A value of a durable plug-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Whose.
    pub plugin: String,
    /// Of whose requests.
    pub scope: Scope,
    /// Its name.
    pub key: String,
    /// Itself.
    pub bytes: Vec<u8>,
    /// When it was set, in milliseconds since 1970.
    pub at_ms: u64,
    /// When it is over, on the same clock; `None`: never.
    pub until_ms: Option<u64>,
}

/// Where durable values outlive the process. Called while everybody else waits: it is quick, and what takes long it does beside.
pub trait Keeper: Send {
    /// What was kept before, the last of each key; `None` while another process keeps. Asked again until it is this one's turn.
    ///
    /// # Errors
    /// What was kept cannot be read; for people.
    fn begin(&mut self) -> Result<Option<Vec<Kept>>, String>;

    /// Adds a value, in place of the one of its key.
    fn put(&mut self, kept: &Kept);

    /// Whether what is kept is to be written anew: much of it counts no more, or something of it could not be added. `at_end`: nothing more comes,
    /// and this is the last time that it can be.
    fn is_stale(&self, at_end: bool) -> bool;

    /// Keeps exactly these, from now on or a little later.
    fn rewrite(&mut self, all: Vec<Kept>);

    /// Nothing more comes: waits until all is kept.
    fn close(&mut self);
}
