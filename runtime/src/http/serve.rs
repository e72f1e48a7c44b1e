//! Connections: HTTP/2 over the activator's socket, HTTP/1 and HTTP/2 over TCP. Stopping is orderly: what runs is
//! finished, nothing new is taken.

use super::{App, router};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use std::{future::Future, pin::pin, time::Duration};
use tokio::net::{TcpListener, UnixStream};

/// Requests that one activator may have open at once.
const STREAMS_MAX: u32 = 16_384;
/// A request's bytes that may be under way before they are read.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The same over all requests.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// An answer's bytes that may wait for the activator to read them; then its sequence pauses.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// How long a client may take over a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A pause after the system had no descriptor for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the one connection until its other end is gone or, after `stop`, all its requests are finished.
pub async fn serve_socket(app: App, socket: UnixStream, stop: impl Future<Output = ()>) {
    let service = TowerToHyperService::new(router(app));
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        // Many clients may leave at once; the activator is trusted not to attack.
        .max_pending_accept_reset_streams(STREAMS_MAX as usize)
        .max_local_error_reset_streams(None);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "the activator's connection ended");
    }
}

/// Serves all connections until, after `stop`, all requests are finished.
pub async fn serve_tcp(app: App, listener: TcpListener, stop: impl Future<Output = ()>) {
    let service = TowerToHyperService::new(router(app));
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let Ok((socket, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Tokens are small and each is waited for.
        let _ = socket.set_nodelay(true);
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        builder.http2().max_send_buf_size(SEND_BUFFER_BYTES);
        let connection = builder.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(e) = watched.await {
                tracing::debug!(error = %e, "a connection ended");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}
