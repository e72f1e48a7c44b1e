//! Somebody who is told of weights just before they are multiplied, by the thread that will do it: what is to be looked at in them is read from
//! memory once then, and not once to be looked at and once to be multiplied.
//!
//! **Contract:** as long as there is a [`Watching`] every byte of a [`crate::Matrix`] that is multiplied or gathered from on the CPU is announced before it is read, in
//! pieces of 64 rows at most, each by the thread that reads it next, and is not read before the watch's call has returned. Vectors are not announced. Watches are
//! the process's own, as its threads are: each is told of all weights, whosever they are. Without any it costs the look at a flag.

use std::{
    ops::Range,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// Is told.
pub trait Watch: Send + Sync {
    /// What lies at these addresses is about to be multiplied.
    fn about_to_read(&self, bytes: Range<*const u8>);

    /// A row is about to be taken out of it.
    fn about_to_gather(&self, bytes: Range<*const u8>);
}

type Watches = Arc<[Arc<dyn Watch>]>;

static IS_WATCHED: AtomicBool = AtomicBool::new(false);
static WATCHES: RwLock<Option<Watches>> = RwLock::new(None);

/// While it lives its watch is told.
pub struct Watching(Arc<dyn Watch>);

impl Watching {
    /// Tells `watch` from now on.
    pub fn begin(watch: Arc<dyn Watch>) -> Self {
        change(|watches| watches.push(watch.clone()));
        Self(watch)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        change(|watches| watches.retain(|watch| !Arc::ptr_eq(watch, &self.0)));
    }
}

/// Others in place of those that are there, which are forgotten while nobody waits.
fn change(by: impl FnOnce(&mut Vec<Arc<dyn Watch>>)) {
    let mut now = WATCHES.write().unwrap_or_else(PoisonError::into_inner);
    let mut watches = now.as_ref().map_or_else(Vec::new, |watches| watches.to_vec());
    by(&mut watches);
    IS_WATCHED.store(!watches.is_empty(), Ordering::Release);
    let before = now.replace(watches.into());
    drop(now);
    drop(before);
}

/// Announces what `bytes` gives and is about to be multiplied.
#[inline]
pub(crate) fn announce<'a>(bytes: impl FnOnce() -> &'a [u8]) {
    if IS_WATCHED.load(Ordering::Acquire) {
        tell(bytes(), |watch, bytes| watch.about_to_read(bytes));
    }
}

/// Announces what `bytes` gives and a row is taken out of.
#[inline]
pub(crate) fn announce_gathered<'a>(bytes: impl FnOnce() -> &'a [u8]) {
    if IS_WATCHED.load(Ordering::Acquire) {
        tell(bytes(), |watch, bytes| watch.about_to_gather(bytes));
    }
}

fn tell(bytes: &[u8], how: impl Fn(&dyn Watch, Range<*const u8>)) {
    let watches = WATCHES.read().unwrap_or_else(PoisonError::into_inner).clone();
    watches.iter().flat_map(|watches| watches.iter()).for_each(|watch| how(&**watch, bytes.as_ptr_range()));
}
