//! Reading a request's body within bounds: its own, and the memory that all bodies share.
//!
//! **Invariant:** a body is kept until its request is answered, and its bytes are counted for as long.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, EXPECT},
};
use http_body_util::BodyExt;
use protocol::{ApiError, ErrorKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::headers;

/// All bodies of held and running requests together.
const BODIES_KIB_MAX: usize = 512 * 1024;

/// What is read of a body that is too large and thrown away, so that its client gets to see the answer.
const DISCARDED_BYTES_MAX: usize = 64 << 20;
/// How long that may take.
const DISCARDING_MAX: Duration = Duration::from_secs(2);

/// The memory that all bodies share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bodies {
    kibibytes: Arc<Semaphore>,
    /// One body's limit.
    bytes_max: usize,
}

/// A body that has been read. Its share of the memory is free when it is dropped.
#[derive(Debug)]
pub struct Read {
    /// All of it.
    pub bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    /// Nothing read yet.
    pub fn new(bytes_max: usize) -> Self {
        Self { kibibytes: Arc::new(Semaphore::new(BODIES_KIB_MAX)), bytes_max }
    }

    /// Reads a whole body.
    pub async fn read(&self, headers: &HeaderMap, mut body: Body) -> Result<Read, ApiError> {
        let announced = headers::text(headers, CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        if announced.is_some_and(|length| length > self.bytes_max as u64) {
            // Who asks first has sent nothing yet.
            if !headers.contains_key(EXPECT) {
                discard(body).await;
            }
            return Err(self.too_large());
        }
        let mut share: Option<OwnedSemaphorePermit> = None;
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                ApiError::new(ErrorKind::InvalidRequest, format!("the body cannot be read: {error}"))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if read.len() + data.len() > self.bytes_max {
                drop((read, share));
                discard(body).await;
                return Err(self.too_large());
            }
            self.grow(&mut share, read.len() + data.len())?;
            read.extend_from_slice(&data);
        }
        Ok(Read { bytes: read.freeze(), _share: share })
    }

    fn grow(&self, share: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), ApiError> {
        let have = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(1024).saturating_sub(have);
        if more == 0 {
            return Ok(());
        }
        let full = |_| {
            let message = "The requests that wait already fill the memory set aside for them.";
            ApiError::new(ErrorKind::QueueFull, message).retry_after(1)
        };
        let more = self.kibibytes.clone().try_acquire_many_owned(more as u32).map_err(full)?;
        match share {
            Some(share) => share.merge(more),
            None => *share = Some(more),
        }
        Ok(())
    }

    fn too_large(&self) -> ApiError {
        ApiError::new(ErrorKind::TooLarge, format!("The body is larger than the limit of {} bytes.", self.bytes_max))
    }
}

/// Takes what is already on its way, so that a client that is still writing reads the answer; one that announced a body
/// and sends nothing is not waited for.
async fn discard(mut body: Body) {
    let on_its_way = async {
        let mut discarded = 0;
        while let Some(Ok(frame)) = body.frame().await {
            discarded += frame.data_ref().map_or(0, Bytes::len);
            if discarded > DISCARDED_BYTES_MAX {
                return;
            }
        }
    };
    let _out_of_patience = tokio::time::timeout(DISCARDING_MAX, on_its_way).await;
}
