//! Somebody who is told of weights just before they are multiplied, by the thread that will do it: what is to be looked at in them is read from
//! memory once then, and not once to be looked at and once to be multiplied.
//!
//! **Contract:** as long as there is a [`Watching`] every byte of a weight that `linear` multiplies on the CPU is announced before it is read, in pieces
//! of some hundred KB, each to the thread that reads it next. Rows that are gathered (embeddings) and vectors are not. It is the process's own, as its
//! threads are: a process has one model, and of several only the last one's watch is told. Without anybody it costs the look at a flag.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

/// Is told.
pub trait Watch: Send + Sync {
    /// `bytes` are about to be read.
    fn about_to_read(&self, bytes: &[u8]);
}

static IS_WATCHED: AtomicBool = AtomicBool::new(false);
static WATCH: RwLock<Option<Arc<dyn Watch>>> = RwLock::new(None);

/// While it lives its watch is told, unless a younger one is.
pub struct Watching(Arc<dyn Watch>);

impl Watching {
    /// Tells `watch` from now on, and nobody else.
    pub fn begin(watch: Arc<dyn Watch>) -> Self {
        let before = replace(Some(watch.clone()), |_| true);
        drop(before);
        Self(watch)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(replace(None, |now| Arc::ptr_eq(now, &self.0)));
    }
}

/// Puts `watch` in place of what is there, if that is `wanted` or nothing; what was there, so that it is forgotten while nobody waits.
fn replace(watch: Option<Arc<dyn Watch>>, wanted: impl Fn(&Arc<dyn Watch>) -> bool) -> Option<Arc<dyn Watch>> {
    let mut now = WATCH.write().unwrap_or_else(PoisonError::into_inner);
    if now.as_ref().is_some_and(|now| !wanted(now)) {
        return None;
    }
    IS_WATCHED.store(watch.is_some(), Ordering::Release);
    std::mem::replace(&mut *now, watch)
}

/// Announces what `bytes` gives.
#[inline]
pub(crate) fn announce<'a>(bytes: impl FnOnce() -> &'a [u8]) {
    if IS_WATCHED.load(Ordering::Acquire) {
        let watch = WATCH.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(watch) = watch {
            watch.about_to_read(bytes());
        }
    }
}
