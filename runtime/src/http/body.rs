//! A request's body, bounded: by itself, and in `run`, where no activator does so, together with all others. And how much of
//! them is tokenized at once.
//!
//! **Invariant:** a body's bytes are counted until its [`Read`] is dropped, which is when its request is answered or streams.

use super::App;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, header};
use http_body_util::BodyExt;
use protocol::{
    ApiError, BODY_BYTES_MAX, ErrorKind,
    resume::{RESUME_HEADER, TRAIL_BYTES_MAX, Trail},
};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies of all requests together, where no activator bounds them.
const BODIES_KIB_MAX: usize = 256 * 1024;
/// Bodies that are tokenized at once: one of the largest, or many small ones. The others wait in order.
const TOKENIZING_KIB_MAX: usize = BODY_BYTES_MAX / 1024;

/// The memory that all bodies share. Cheap to clone.
#[derive(Clone)]
pub struct Bodies(Option<Arc<Semaphore>>);

impl Bodies {
    /// Whoever is in front bounds them.
    pub fn unbounded() -> Self {
        Self(None)
    }

    /// Nothing read yet.
    pub fn bounded() -> Self {
        Self::of(BODIES_KIB_MAX)
    }

    pub(super) fn of(kibibytes: usize) -> Self {
        Self(Some(Arc::new(Semaphore::new(kibibytes))))
    }

    /// Makes `share` enough for so many bytes.
    fn grow(&self, share: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), ApiError> {
        let Some(kibibytes) = &self.0 else { return Ok(()) };
        let have = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(1024).saturating_sub(have);
        if more == 0 {
            return Ok(());
        }
        let full = |_| {
            let message = "the requests that wait already fill the memory set aside for them";
            ApiError::new(ErrorKind::QueueFull, message).retry_after(1)
        };
        let more = kibibytes.clone().try_acquire_many_owned(more as u32).map_err(full)?;
        match share {
            Some(share) => share.merge(more),
            None => *share = Some(more),
        }
        Ok(())
    }
}

/// How much is tokenized at once. Cheap to clone.
#[derive(Clone)]
pub struct Tokenizing(Arc<Semaphore>);

impl Tokenizing {
    /// Nothing yet.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(TOKENIZING_KIB_MAX)))
    }

    /// Waits for the turn of a body of so many bytes; it is over when what this returns is dropped.
    pub async fn share(&self, bytes: usize) -> OwnedSemaphorePermit {
        let kibibytes = bytes.div_ceil(1024).clamp(1, TOKENIZING_KIB_MAX);
        self.0.clone().acquire_many_owned(kibibytes as u32).await.expect("the semaphore is never closed")
    }
}

/// A body that has been read.
pub struct Read {
    /// All of it, but a trail.
    pub bytes: Bytes,
    /// What was in front of it.
    pub trail: Trail,
    _share: Option<OwnedSemaphorePermit>,
}

/// The whole body; what an activator has put in front of it apart.
///
/// # Errors
/// 413 over the limit (before reading, where the length is announced); 429 where all bodies together are; 400 where it breaks
/// off.
pub async fn read(app: &App, request: Request<Body>) -> Result<Read, ApiError> {
    let in_front = number(request.headers(), RESUME_HEADER).filter(|_| app.behind_activator);
    let in_front = in_front.unwrap_or(0).min(TRAIL_BYTES_MAX as u64) as usize;
    let bytes_max = BODY_BYTES_MAX + in_front;
    let announced = number(request.headers(), header::CONTENT_LENGTH.as_str());
    if announced.is_some_and(|n| n > bytes_max as u64) {
        return Err(too_large());
    }
    let (mut body, mut read, mut share) = (request.into_body(), BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        let broken = |e| ApiError::new(ErrorKind::InvalidRequest, format!("the body broke off: {e}"));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if read.len() + data.len() > bytes_max {
            return Err(too_large());
        }
        app.bodies.grow(&mut share, read.len() + data.len())?;
        read.extend_from_slice(&data);
    }
    let mut bytes = read.freeze();
    let trail = match in_front {
        0 => Trail::default(),
        _ => read_trail(&bytes.split_to(in_front.min(bytes.len())))?,
    };
    Ok(Read { bytes, trail, _share: share })
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn read_trail(json: &[u8]) -> Result<Trail, ApiError> {
    serde_json::from_slice(json).map_err(|e| ApiError::field("trail", e))
}

fn too_large() -> ApiError {
    ApiError::new(ErrorKind::TooLarge, format!("the body is larger than the limit of {BODY_BYTES_MAX} bytes"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::http::Phase;
    use tokio::sync::watch;

    #[tokio::test]
    async fn bodies_share_their_memory_and_give_it_back() {
        let app = App { bodies: Bodies::of(3), ..App::alone(watch::channel(Phase::Starting).1) };
        let ask = |kibibytes: usize| read(&app, Request::new(Body::from(vec![b' '; kibibytes * 1024])));
        let first = ask(2).await.unwrap();
        assert_eq!(ask(2).await.err().map(|e| (e.kind, e.retry_after_s)), Some((ErrorKind::QueueFull, Some(1))));
        let second = ask(1).await.unwrap();
        assert_eq!((first.bytes.len(), second.bytes.len()), (2048, 1024));
        drop(first);
        assert!(ask(2).await.is_ok());
    }

    #[tokio::test]
    async fn one_of_the_largest_is_tokenized_at_a_time() {
        let tokenizing = Tokenizing::new();
        let large = tokenizing.share(BODY_BYTES_MAX).await;
        let small = tokenizing.clone();
        let second = tokio::spawn(async move { drop(small.share(1).await) });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!second.is_finished());
        drop(large);
        second.await.unwrap();
        assert_eq!(tokenizing.0.available_permits(), TOKENIZING_KIB_MAX);
    }
}
