//! The way to one runtime: HTTP/2 over its inherited socket, one connection with many streams.
//!
//! **Invariant:** dropping a response future or body resets its stream, and nothing else: that is how a client's leaving
//! reaches the engine.

use std::{convert::Infallible, io, time::Duration, vec};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;

/// What one stream may send ahead of its client, in bytes: a few hundred tokens.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// Larger than all stream windows together, so that slow clients never stall the others' streams.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;

/// A request's body: parts that are there already.
pub type Outgoing = StreamBody<stream::Iter<vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

/// Parts, one after the other, as a body.
pub fn outgoing(parts: impl Iterator<Item = Bytes>) -> Outgoing {
    StreamBody::new(stream::iter(parts.map(|part| Ok(Frame::data(part))).collect::<Vec<_>>()))
}

/// A runtime's HTTP side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Endpoint {
    requests: http2::SendRequest<Outgoing>,
}

/// Why a request got no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// The connection is gone, and the runtime with it; or it takes no new requests. Another runtime can be asked.
    ConnectionLost(hyper::Error),
    /// This request alone came to nothing: the runtime gave it up, or would not take it.
    RequestLost(hyper::Error),
}

impl Unanswered {
    /// Sorts an error of a request or of its answer's body. What one request can bring about never counts against the
    /// connection: the runtime behind a lost connection is killed.
    pub fn sort(error: hyper::Error) -> Self {
        let source = std::error::Error::source(&error);
        let lost = match source.and_then(|source| source.downcast_ref::<h2::Error>()) {
            Some(error) => error.is_io() || error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM),
            None => {
                let io = source.is_some_and(|source| source.is::<io::Error>());
                io || error.is_closed() || error.is_canceled() || error.is_incomplete_message()
            }
        };
        if lost { Self::ConnectionLost(error) } else { Self::RequestLost(error) }
    }
}

impl Endpoint {
    /// Speaks first, with prior knowledge, and waits for nothing: the runtime may still be starting.
    pub async fn connect(socket: UnixStream) -> io::Result<Self> {
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(None::<Duration>)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(io::Error::other)?;
        // Ends with the socket, or when the last clone of `requests` and the last stream are gone.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a runtime's connection ended");
            }
        });
        Ok(Self { requests })
    }

    /// Whether no request can reach the runtime any more.
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Sends one request and waits for the answer's head.
    pub async fn ask(&self, request: Request<Outgoing>) -> Result<Response<Incoming>, Unanswered> {
        let mut requests = self.requests.clone();
        requests.ready().await.map_err(Unanswered::sort)?;
        requests.send_request(request).await.map_err(Unanswered::sort)
    }
}
