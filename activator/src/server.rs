//! Accepting connections: HTTP/1.1 and HTTP/2 on one port, in the clear (with prior knowledge) or under TLS.
//!
//! **Invariant:** a client that goes away has its handler dropped, and with it all that the handler holds.

mod watched;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::response::Response;
use http::Request;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
};
use tracing::Instrument;

use self::watched::Watched;
use crate::{timers::Timers, tls::Tls};

/// Open connections at most; further ones wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 32 * 1024;

/// Streams of one HTTP/2 connection at most.
const STREAMS_MAX: u32 = 1024;

/// A client that has not sent its headers by then is cut.
const HEADERS_WITHIN: Duration = Duration::from_secs(30);

/// What one connection may have unparsed.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One port, being served.
#[derive(Debug)]
pub struct Server {
    /// Where.
    pub address: SocketAddr,
    stop: oneshot::Sender<Duration>,
    stopped: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Serves until [`Server::stop`].
    pub fn start(listener: TcpListener, service: impl Serves, tls: Option<Tls>) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let (stop, stopping) = oneshot::channel();
        let stopped = tokio::spawn(serve(listener, service, tls, stopping).in_current_span());
        Ok(Self { address, stop, stopped })
    }

    /// Accepts nothing more, lets every request that has begun finish, and closes all connections: those without a request after `linger`, so
    /// that who has just sent one is not cut off.
    pub async fn stop(self, linger: Duration) {
        // A task that has ended needs no word.
        let _ = self.stop.send(linger);
        if let Err(error) = self.stopped.await {
            tracing::error!(%error, "a port's task failed");
        }
    }
}

/// What answers requests, a clone of it for each connection.
pub trait Serves:
    Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static
{
}

impl<S> Serves for S where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What a connection meets.
struct Door<S> {
    service: S,
    tls: Option<Tls>,
    /// For who speaks HTTP/1.
    http1: http1::Builder,
    /// For who may speak either.
    either: auto::Builder<TokioExecutor>,
    /// Whether everything ends.
    stopping: watch::Receiver<bool>,
}

async fn serve<S: Serves>(
    listener: TcpListener,
    service: S,
    tls: Option<Tls>,
    mut stopping: oneshot::Receiver<Duration>,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (stop, stopped) = watch::channel(false);
    let door = Arc::new(Door { service, tls, http1: http1(), either: either(), stopping: stopped });
    let linger = loop {
        let accept = async {
            let place = room.clone().acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accept => accepted,
            linger = &mut stopping => break linger.unwrap_or_default(),
        };
        match accepted {
            Ok((stream, _)) => connect(stream, place, door.clone()),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    drop(listener);
    // All room is free once every connection is closed.
    let all_closed = || room.acquire_many(CONNECTIONS_MAX as u32);
    if tokio::time::timeout(linger, all_closed()).await.is_err() {
        stop.send_replace(true);
        drop(all_closed().await);
    }
}

fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(Timers::default()).header_read_timeout(HEADERS_WITHIN).max_buf_size(BUFFER_BYTES_MAX);
    builder
}

fn either() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN).max_buf_size(BUFFER_BYTES_MAX);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
    builder
}

fn connect<S: Serves>(stream: TcpStream, place: OwnedSemaphorePermit, door: Arc<Door<S>>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    // Two tasks, so that a connection in the clear does not have the size of one under TLS.
    match door.tls.clone() {
        None => drop(tokio::spawn(
            async move {
                door.answer_in_the_clear(stream).await;
                drop(place);
            }
            .in_current_span(),
        )),
        Some(tls) => drop(tokio::spawn(
            async move {
                match tls.accept(stream).await {
                    Ok((stream, names)) => {
                        let service = door.service.clone();
                        let named = service_fn(move |mut request: Request<Incoming>| {
                            request.extensions_mut().insert(names.clone());
                            service.call(request)
                        });
                        door.answer(stream, named).await;
                    }
                    Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
                }
                drop(place);
            }
            .in_current_span(),
        )),
    }
}

/// How the connection preface of HTTP/2 begins, and no request of HTTP/1.
const PREFACE: &[u8] = b"PRI";

/// Whether what a client has sent first can only be HTTP/1; it stays to be read. False, too, where that cannot be told yet.
async fn is_http1(stream: &TcpStream) -> std::io::Result<bool> {
    let mut begins = [0; PREFACE.len()];
    let bytes = stream.peek(&mut begins).await?;
    Ok(!PREFACE.starts_with(&begins[..bytes]))
}

impl<D: Serves> Door<D> {
    /// What a connection says first is looked at and left where it is: read, it would have to be put in front again, and then hyper takes
    /// twice the memory for what it reads, for as long as the connection is open.
    async fn answer_in_the_clear(&self, stream: TcpStream) {
        let mut stopping = self.stopping.clone();
        let said = tokio::select! {
            // First, so that who has just sent something is not cut off.
            biased;
            said = tokio::time::timeout(HEADERS_WITHIN, is_http1(&stream)) => said,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        match said {
            Ok(Ok(true)) => {
                let connection = self.http1.serve_connection(TokioIo::new(stream), self.service.clone());
                if let Err(error) = Watched::new(connection, self.stopping.clone()).await {
                    tracing::debug!(%error, "a connection ended");
                }
            }
            // Boxed, so that connections of HTTP/1 do not have its size.
            Ok(Ok(false)) => Box::pin(self.answer(stream, self.service.clone())).await,
            Ok(Err(error)) => tracing::debug!(%error, "a connection ended before it said anything"),
            Err(_) => tracing::debug!("a connection said nothing"),
        }
    }

    async fn answer<S>(
        &self,
        stream: S,
        service: impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Send + 'static,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let connection = self.either.serve_connection(TokioIo::new(stream), service).into_owned();
        if let Err(error) = Watched::new(connection, self.stopping.clone()).await {
            tracing::debug!(error, "a connection ended");
        }
    }
}
