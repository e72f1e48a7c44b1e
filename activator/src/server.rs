//! Accepting connections: HTTP/1.1 and HTTP/2 with prior knowledge on one port.
//!
//! **Invariant:** a client that goes away has its handler dropped, and with it all that the handler holds.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
};
use tracing::Instrument;

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
    stop: oneshot::Sender<()>,
    stopped: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Serves until [`Server::stop`].
    pub fn start(listener: TcpListener, router: Router) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let (stop, stopping) = oneshot::channel();
        let stopped = tokio::spawn(serve(listener, router, stopping).in_current_span());
        Ok(Self { address, stop, stopped })
    }

    /// Accepts nothing more, lets every request that has begun finish, and closes all connections.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.stopped.await {
            tracing::error!(%error, "a port's task failed");
        }
    }
}

async fn serve(listener: TcpListener, router: Router, mut stopping: oneshot::Receiver<()>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let builder = builder();
    loop {
        let place = room.clone().acquire_owned().await.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopping => break,
        };
        match accepted {
            Ok((stream, _)) => connect(stream, place, &builder, &router, &graceful),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN).max_buf_size(BUFFER_BYTES_MAX);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
    builder
}

fn connect(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    builder: &auto::Builder<TokioExecutor>,
    router: &Router,
    graceful: &GracefulShutdown,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let service = TowerToHyperService::new(router.clone());
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    let connection = graceful.watch(connection);
    let served = async move {
        if let Err(error) = connection.await {
            tracing::debug!(error, "a connection ended");
        }
        drop(place);
    };
    tokio::spawn(served.in_current_span());
}
