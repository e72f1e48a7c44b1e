//! Connections of HTTP/1.1 to one runtime, each with at most one request: for the first tens of requests that run at once.
//!
//! **Invariants:** never more than [`CONNECTIONS_MAX`]; a connection comes back only after a whole answer. Nothing runs beside: who asks moves
//! its connection's bytes itself, and a free one is looked at when it is taken.

use std::{
    future::poll_fn,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::response::Parts;

use super::{
    Ask,
    connection::{self, Broken, Connection},
};
use crate::http1::Body;

/// Connections to one runtime at most; further requests share one of HTTP/2.
const CONNECTIONS_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct Pool {
    free: Mutex<Vec<Connection>>,
    open: AtomicUsize,
}

impl Pool {
    /// One that is free, and open.
    pub async fn take(self: &Arc<Self>) -> Option<Exchange> {
        poll_fn(|cx| Poll::Ready(self.look(cx))).await
    }

    fn look(self: &Arc<Self>, cx: &mut Context<'_>) -> Option<Exchange> {
        loop {
            let mut exchange = Exchange { connection: Some(self.free().pop()?), pool: self.clone(), body: None };
            // One that is not counts as given back.
            if exchange.connection.as_mut().is_some_and(|connection| connection.is_free(cx)) {
                return Some(exchange);
            }
        }
    }

    /// One more, and its other end; `None` where there are enough.
    pub fn connect(&self) -> io::Result<Option<OwnedFd>> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Ok(None);
        }
        match connection::pair() {
            Ok((connection, theirs)) => {
                self.free().push(connection);
                Ok(Some(theirs))
            }
            Err(error) => {
                self.open.fetch_sub(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        // Whole at all times.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that somebody has. Dropped before the answer is whole it is closed.
#[derive(Debug)]
pub struct Exchange {
    connection: Option<Connection>,
    pool: Arc<Pool>,
    /// Of the answer, once its head is there.
    body: Option<Body>,
}

impl Exchange {
    /// Sends a request and waits for its answer's head.
    pub async fn ask(&mut self, ask: &Ask<'_>) -> Result<Parts, Broken> {
        let connection = self.connection.as_mut().ok_or(Broken::Ended)?;
        connection.begin(ask);
        let (head, body) = poll_fn(|cx| connection.poll_head(cx)).await?;
        self.body = Some(body);
        Ok(head)
    }

    /// The end of its answer's body has been seen.
    pub fn is_over(&self) -> bool {
        self.body.is_some_and(|body| body.is_over())
    }

    /// The next bytes of its answer's body; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        let (connection, body) = (self.connection.as_mut()?, self.body.as_mut()?);
        poll_fn(|cx| connection.poll_body(body, cx)).await
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let followed = self.body.is_some_and(|body| body.is_followed());
        match self.connection.take() {
            Some(connection) if followed && connection.is_idle() => self.pool.free().push(connection),
            _ => drop(self.pool.open.fetch_sub(1, Ordering::Relaxed)),
        }
    }
}
