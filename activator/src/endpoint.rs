//! The way to one runtime: HTTP/1.1 on a connection of the request's own while one is free, else HTTP/2 over the inherited socket, where many
//! streams share one connection.
//!
//! **Invariants:** dropping an answer before its end tells the runtime at once, and nobody else: that is how a client's leaving reaches the
//! engine. Whether the runtime is still there is told by the inherited socket alone: a connection of one request ends with that request, too.

mod ask;
mod connection;
mod pool;

use std::{error::Error, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::response;
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Incoming},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use local_socket::LocalStream;
use protocol::control::ToRuntime;
use tokio::sync::watch;

use self::{
    ask::Outgoing,
    connection::Broken,
    pool::{Exchange, Pool},
};
use crate::child::Child;

pub use self::ask::{Ask, Ours};

/// What one stream may send ahead of its client, in bytes: a few hundred tokens.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// Larger than all stream windows together, so that slow clients never stall the others' streams.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;

/// A runtime whose other connections have broken is known to be gone after this time, if it is.
const GOING_MAX: Duration = Duration::from_secs(2);

/// A runtime's HTTP side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Endpoint(Arc<Ways>);

#[derive(Debug)]
struct Ways {
    streams: http2::SendRequest<Outgoing>,
    pool: Arc<Pool>,
    /// To be told of connections.
    child: Child,
    gone: Gone,
}

/// Closed once the inherited socket is.
type Gone = watch::Receiver<()>;

/// Why a request got no answer, or only a part of one.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// The runtime is gone; or it takes no new requests. Another runtime can be asked.
    #[error("{0}")]
    ConnectionLost(Box<dyn Error + Send + Sync>),
    /// The same, and it has seen nothing of the request.
    #[error("{0}")]
    NotSent(Box<dyn Error + Send + Sync>),
    /// This request alone came to nothing: the runtime gave it up, or would not take it.
    #[error("{0}")]
    RequestLost(Box<dyn Error + Send + Sync>),
}

impl Unanswered {
    /// Sorts an error of the inherited socket's. What one request can bring about never counts against the connection: the runtime behind a
    /// lost connection is killed.
    fn of_stream(error: hyper::Error) -> Self {
        let source = error.source();
        let of_http2 = source.and_then(|source| source.downcast_ref::<h2::Error>());
        if of_http2.is_some_and(|error| error.reason() == Some(h2::Reason::REFUSED_STREAM)) {
            return Self::NotSent(error.into());
        }
        let lost = match of_http2 {
            Some(error) => error.is_io() || error.is_go_away(),
            None => {
                let io = source.is_some_and(|source| source.is::<io::Error>());
                io || error.is_closed() || error.is_canceled() || error.is_incomplete_message()
            }
        };
        if lost { Self::ConnectionLost(error.into()) } else { Self::RequestLost(error.into()) }
    }

    /// Sorts an error of a request's own connection: that alone says nothing of the runtime.
    async fn of_exchange(error: Broken, gone: &mut Gone) -> Self {
        let going = async { while gone.changed().await.is_ok() {} };
        match tokio::time::timeout(GOING_MAX, going).await {
            Ok(()) => Self::ConnectionLost(error.into()),
            Err(_) => Self::RequestLost(error.into()),
        }
    }
}

impl Endpoint {
    /// Speaks first, with prior knowledge, and waits for nothing: the runtime may still be starting.
    pub async fn connect(socket: LocalStream, child: Child) -> io::Result<Self> {
        let (streams, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(None::<Duration>)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(io::Error::other)?;
        let (open, gone) = watch::channel(());
        // Ends with the socket, or when the last clone of `streams` and the last stream are gone.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a runtime's connection ended");
            }
            drop(open);
        });
        Ok(Self(Arc::new(Ways { streams, pool: Arc::default(), child, gone })))
    }

    /// Whether no request can reach the runtime any more.
    pub fn is_closed(&self) -> bool {
        self.0.streams.is_closed()
    }

    /// Sends one request and waits for the answer's head. Where its own connection breaks before that (mostly it was closed while it was free), it
    /// is sent again by the inherited socket, which tells what has become of the runtime.
    pub async fn ask(&self, ask: &Ask<'_>) -> Result<(response::Parts, Answering), Unanswered> {
        let ways = &*self.0;
        let fits = ask.fits_http1();
        let free = if fits { ways.pool.take().await } else { None };
        let none_free = free.is_none();
        if let Some(mut exchange) = free {
            match exchange.ask(ask).await {
                Ok(head) => return Ok((head, Answering(Way::Own(exchange, ways.gone.clone())))),
                // It has been asked, and may have computed.
                Err(error @ Broken::Malformed(_)) => return Err(Unanswered::RequestLost(error.into())),
                Err(error) => tracing::debug!(%error, "a runtime's free connection was closed"),
            }
        }
        // Boxed, so that what has a connection does not have its size.
        Box::pin(self.share(ask, fits && none_free)).await
    }

    /// The same by the inherited socket. `wants_own`: a connection would have done.
    async fn share(&self, ask: &Ask<'_>, wants_own: bool) -> Result<(response::Parts, Answering), Unanswered> {
        let mut streams = self.0.streams.clone();
        streams.ready().await.map_err(|error| Unanswered::NotSent(error.into()))?;
        let answer = streams.send_request(ask.to_http2());
        // On its way already.
        if wants_own {
            self.connect_one_more();
        }
        let (head, body) = answer.await.map_err(Unanswered::of_stream)?.into_parts();
        Ok((head, Answering(Way::Shared(body))))
    }

    /// For the next request that comes while others run. Where that cannot be, all goes on without.
    fn connect_one_more(&self) {
        match self.0.pool.connect() {
            Ok(None) => {}
            // Without an other end ours is closed, and found so.
            Ok(Some(theirs)) => {
                if let Err(error) = self.0.child.tell(&ToRuntime::Connection, Some(&theirs)) {
                    tracing::debug!(%error, "a runtime cannot be given a connection");
                }
            }
            Err(error) => tracing::debug!(%error, "no connection to a runtime can be made"),
        }
    }
}

/// The body of an answer, as it comes. Dropped before its end it takes the request back.
#[derive(Debug)]
pub struct Answering(Way);

/// On what an answer comes.
#[derive(Debug)]
enum Way {
    /// A connection of the request's own.
    Own(Exchange, Gone),
    /// The inherited socket.
    Shared(Incoming),
}

impl Answering {
    /// The end of it has been seen: [`Answering::next`] has nothing more. False, too, where that is not known yet.
    pub fn is_over(&self) -> bool {
        match &self.0 {
            Way::Own(exchange, _) => exchange.is_over(),
            Way::Shared(body) => body.is_end_stream(),
        }
    }

    /// The next bytes; trailers are passed over. Who drops this before it is done asks for nothing more.
    pub async fn next(&mut self) -> Option<Result<Bytes, Unanswered>> {
        match &mut self.0 {
            Way::Own(exchange, gone) => match exchange.next().await? {
                Ok(data) => Some(Ok(data)),
                // Boxed, so that who is answered does not have its size.
                Err(error) => Some(Err(Box::pin(Unanswered::of_exchange(error, gone)).await)),
            },
            Way::Shared(body) => loop {
                match body.frame().await?.map(|frame| frame.into_data()) {
                    Ok(Ok(data)) => return Some(Ok(data)),
                    Ok(Err(_trailers)) => {}
                    Err(error) => return Some(Err(Unanswered::of_stream(error))),
                }
            },
        }
    }
}
