//! Connections of HTTP/1.1 to one runtime, each with at most one request: for the first tens of requests that run at once.
//!
//! **Invariants:** never more than [`CONNECTIONS_MAX`]; a connection comes back only after a whole answer. Nothing runs beside: who asks moves
//! its connection's bytes itself, and a free one is looked at when it is taken.

use std::{
    future::poll_fn,
    io,
    os::fd::OwnedFd,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Frame, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::net::UnixStream;

use super::Outgoing;

/// Connections to one runtime at most; further requests share one of HTTP/2.
const CONNECTIONS_MAX: usize = 64;

/// What an answer may be ahead of its client in the kernel; twice of it with the kernel's own accounts.
const SOCKET_BYTES: usize = 64 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Pool {
    free: Mutex<Vec<Connection>>,
    open: AtomicUsize,
}

/// Box: hyper's part is large, and is moved with every request.
#[derive(Debug)]
struct Connection {
    requests: http1::SendRequest<Outgoing>,
    bytes: Box<http1::Connection<TokioIo<UnixStream>, Outgoing>>,
    /// Its bytes have come to an end.
    ended: bool,
}

/// A request's own connection broke.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// As hyper says.
    #[error("{0}")]
    Said(#[from] hyper::Error),
    /// Without a word.
    #[error("the connection ended")]
    Ended,
}

impl Pool {
    /// One that is free, and open.
    pub async fn take(self: &Arc<Self>) -> Option<Exchange> {
        poll_fn(|cx| Poll::Ready(self.look(cx))).await
    }

    fn look(self: &Arc<Self>, cx: &mut Context<'_>) -> Option<Exchange> {
        loop {
            let mut exchange = Exchange { connection: Some(self.free().pop()?), pool: self.clone(), over: false };
            // One that is not counts as given back.
            if exchange.connection.as_mut().is_some_and(|connection| connection.is_free(cx)) {
                return Some(exchange);
            }
        }
    }

    /// One more, and its other end; `None` where there are enough.
    pub async fn connect(&self) -> io::Result<Option<OwnedFd>> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Ok(None);
        }
        match pair().await {
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

async fn pair() -> io::Result<(Connection, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    sockopt::set_socket_send_buffer_size(&theirs, SOCKET_BYTES)?;
    ours.set_nonblocking(true)?;
    let io = TokioIo::new(UnixStream::from_std(ours)?);
    let (requests, bytes) = http1::handshake(io).await.map_err(io::Error::other)?;
    Ok((Connection { requests, bytes: Box::new(bytes), ended: false }, theirs.into()))
}

impl Connection {
    /// Moves what bytes can be moved.
    fn go_on(&mut self, cx: &mut Context<'_>) {
        // Why it ended is told where its answer is waited for.
        self.ended = self.ended || Pin::new(&mut *self.bytes).poll(cx).is_ready();
    }

    fn is_free(&mut self, cx: &mut Context<'_>) -> bool {
        self.go_on(cx);
        !self.ended && matches!(self.requests.poll_ready(cx), Poll::Ready(Ok(())))
    }
}

/// A connection that somebody has. Dropped before the answer is whole it is closed.
#[derive(Debug)]
pub struct Exchange {
    connection: Option<Connection>,
    pool: Arc<Pool>,
    over: bool,
}

impl Exchange {
    /// Sends a request and waits for its answer's head.
    pub async fn ask(mut self, request: Request<Outgoing>) -> Result<(Response<Incoming>, Self), Broken> {
        let mut connection = self.connection.take().ok_or(Broken::Ended)?;
        // Whether it is there is asked of nobody's budget.
        let mut answer = pin!(tokio::task::unconstrained(connection.requests.send_request(request)));
        let answered = poll_fn(|cx| {
            connection.go_on(cx);
            match answer.as_mut().poll(cx) {
                Poll::Ready(answered) => Poll::Ready(answered.map_err(Broken::Said)),
                Poll::Pending if connection.ended => Poll::Ready(Err(Broken::Ended)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        self.connection = Some(connection);
        let response = answered?;
        self.over = response.body().is_end_stream();
        Ok((response, self))
    }

    /// The end of its answer's body has been seen.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The next part of its answer's body; `None` at the end.
    pub async fn frame(&mut self, body: &mut Incoming) -> Option<Result<Frame<Bytes>, Broken>> {
        poll_fn(|cx| self.poll_frame(body, cx)).await
    }

    fn poll_frame(&mut self, body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        let mut polled = Pin::new(&mut *body).poll_frame(cx);
        if polled.is_pending() {
            connection.go_on(cx);
            polled = Pin::new(&mut *body).poll_frame(cx);
        }
        match polled {
            Poll::Ready(part) => {
                self.over = part.as_ref().is_none_or(|part| part.is_ok() && body.is_end_stream());
                Poll::Ready(part.map(|part| part.map_err(Broken::Said)))
            }
            Poll::Pending if connection.ended => Poll::Ready(Some(Err(Broken::Ended))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        match self.connection.take() {
            Some(connection) if self.over && !connection.ended => self.pool.free().push(connection),
            _ => drop(self.pool.open.fetch_sub(1, Ordering::Relaxed)),
        }
    }
}
