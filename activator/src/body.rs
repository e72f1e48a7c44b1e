//! Reading a request's body within bounds: its own, and the memory that all bodies share, of which a tenant has its part.
//!
//! **Invariant:** a body is kept until its request is answered, and its bytes are counted for as long.

use std::{fmt::Display, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, EXPECT},
};
use http_body_util::BodyExt;
use protocol::{ApiError, ErrorKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    headers,
    tenants::{Caller, quota::BodyMemory},
};

/// All bodies of held and running requests together.
const BODIES_KIB_MAX: usize = 512 * 1024;

/// Memory is counted in these, in bytes.
const KIB: usize = 1024;

/// What is read of a body that is too large and thrown away, so that its client gets to see the answer.
const DISCARDED_BYTES_MAX: usize = 64 << 20;
/// How long that may take.
const DISCARDING_MAX: Duration = Duration::from_secs(2);

/// A body as a client sends it.
pub trait Sent: http_body::Body<Data = Bytes, Error: Display> + Unpin + Send {}

impl<B: http_body::Body<Data = Bytes, Error: Display> + Unpin + Send> Sent for B {}

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
    _memory: Memory,
}

/// What one body has. Dropping it gives it back.
#[derive(Debug)]
struct Memory {
    /// Of that for all bodies.
    of_all: Option<OwnedSemaphorePermit>,
    /// Of its tenant's part, where it is a tenant's.
    of_tenant: Option<BodyMemory>,
}

impl Bodies {
    /// Nothing read yet.
    pub fn new(bytes_max: usize) -> Self {
        Self { kibibytes: Arc::new(Semaphore::new(BODIES_KIB_MAX)), bytes_max }
    }

    /// Reads a whole body, which is this caller's.
    ///
    /// # Errors
    /// 413; 429 where there is no memory, or its tenant has its part of it; 400 where it breaks off.
    pub async fn read(&self, caller: &Caller, headers: &HeaderMap, mut body: impl Sent) -> Result<Read, ApiError> {
        let announced = headers::text(headers, CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        if announced.is_some_and(|length| length > self.bytes_max as u64) {
            // Who asks first has sent nothing yet.
            if !headers.contains_key(EXPECT) {
                Box::pin(discard(body)).await;
            }
            return Err(self.too_large());
        }
        let of_tenant = caller.body(BODIES_KIB_MAX, self.bytes_max.div_ceil(KIB));
        let mut memory = Memory { of_all: None, of_tenant };
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                ApiError::new(ErrorKind::InvalidRequest, format!("the body cannot be read: {error}"))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if read.len() + data.len() > self.bytes_max {
                drop((read, memory));
                Box::pin(discard(body)).await;
                return Err(self.too_large());
            }
            if let Err(full) = self.grow(&mut memory, caller, read.len() + data.len()) {
                drop((read, memory));
                Box::pin(discard(body)).await;
                return Err(full);
            }
            read.extend_from_slice(&data);
        }
        Ok(Read { bytes: read.freeze(), _memory: memory })
    }

    /// So that it has room for so many bytes.
    fn grow(&self, memory: &mut Memory, caller: &Caller, bytes: usize) -> Result<(), ApiError> {
        let have = memory.of_all.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(KIB).saturating_sub(have);
        if more == 0 {
            return Ok(());
        }
        if let Some(of_tenant) = &mut memory.of_tenant {
            of_tenant.grow(caller.name(), more)?;
        }
        let full = |_| {
            let message = "The requests that wait already fill the memory set aside for them.";
            ApiError::new(ErrorKind::QueueFull, message).retry_after(1)
        };
        let more = self.kibibytes.clone().try_acquire_many_owned(more as u32).map_err(full)?;
        match &mut memory.of_all {
            Some(had) => had.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    fn too_large(&self) -> ApiError {
        ApiError::new(ErrorKind::TooLarge, format!("The body is larger than the limit of {} bytes.", self.bytes_max))
    }
}

/// Takes what is already on its way, so that a client that is still writing reads the answer; one that announced a body
/// and sends nothing is not waited for.
async fn discard(mut body: impl Sent) {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tenants::{TenantEntry, Tenants, key::KeyHash};
    use axum::body::Body;

    async fn of_tenants(weights: &[u32]) -> Vec<Caller> {
        let keys: Vec<_> = weights.iter().map(|_| KeyHash::new().unwrap()).collect();
        let entry = |(weight, (_, hash)): (&u32, &(String, KeyHash))| TenantEntry {
            keys: vec![hash.clone()],
            weight: *weight,
            ..TenantEntry::new(&hash.id)
        };
        let entries: Vec<_> = weights.iter().zip(&keys).map(entry).collect();
        let tenants = Tenants::new(&entries, Vec::new(), false, &mut Default::default());
        let mut callers = Vec::new();
        for (key, _) in &keys {
            let shown = HeaderMap::from_iter([(http::header::AUTHORIZATION, format!("Bearer {key}").parse().unwrap())]);
            callers.push(tenants.identify(&shown, &[]).await.unwrap());
        }
        callers
    }

    #[tokio::test]
    async fn a_tenant_has_its_part_by_weight_and_nobody_else_s() {
        const MIB: usize = 1 << 20;
        let callers = of_tenants(&[1, 3]).await;
        // 128 MiB and 384 MiB, in bodies of 64 MiB.
        let bodies = Bodies::new(64 * MIB);
        let whole = Bytes::from(vec![0; 64 * MIB]);
        let read = async |caller: &Caller| bodies.read(caller, &HeaderMap::new(), Body::from(whole.clone())).await;
        let kept = [read(&callers[0]).await.unwrap(), read(&callers[0]).await.unwrap()];
        let refused = read(&callers[0]).await.unwrap_err();
        assert_eq!((refused.kind, refused.retry_after_s), (ErrorKind::QueueFull, Some(1)));
        assert!(refused.message.contains("its share"), "{}", refused.message);
        assert!(read(&callers[1]).await.is_ok());
        drop(kept);
        assert!(read(&callers[0]).await.is_ok());
    }
}
