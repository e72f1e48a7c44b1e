//! Connections: HTTP/2 and HTTP/1 over the activator's sockets, both over TCP. Stopping is orderly: what runs is
//! finished, nothing new is taken.

use super::{App, router};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use local_socket::LocalStream;
use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

/// Requests that one activator may have open at once.
const STREAMS_MAX: u32 = 16_384;
/// Connections of clients at most, where no activator is in front.
pub const CONNECTIONS_MAX: usize = 4096;
/// Requests that one of them may have open at once.
const STREAMS_OF_A_CLIENT_MAX: u32 = 1024;
/// A request's bytes that may be under way before they are read.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The same over all requests.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// An answer's bytes that may wait for the activator to read them; then its sequence pauses.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// The same on a connection of HTTP/1, and a request's head at most.
const BUFFER_BYTES_MAX: usize = 128 << 10;
/// How long a client may take over a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A pause after the system had no descriptor for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves HTTP/2 on the first socket until its other end is gone, and HTTP/1 on those that come later; after `stop`, until all requests are
/// finished.
pub async fn serve_sockets(
    app: App,
    first: LocalStream,
    mut later: mpsc::Receiver<LocalStream>,
    stop: impl Future<Output = ()>,
) {
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
    let mut connection = pin!(builder.serve_connection(TokioIo::new(first), service.clone()));
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    let ended = loop {
        tokio::select! {
            ended = &mut connection => break ended,
            Some(socket) = later.recv() => {
                let connection = http1().serve_connection(TokioIo::new(socket), service.clone());
                tokio::spawn(graceful.watch(connection));
            }
            () = &mut stop => {
                // Who comes too late is closed, and asks by the first.
                drop(later);
                connection.as_mut().graceful_shutdown();
                break tokio::join!(connection, graceful.shutdown()).0;
            }
        }
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "the activator's connection ended");
    }
}

/// As the activator speaks it: it may leave a connection free for long, and has checked how large heads are.
fn http1() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.header_read_timeout(None).max_buf_size(BUFFER_BYTES_MAX);
    builder
}

/// Serves all connections until, after `stop`, all requests are finished; `most` at once, further ones wait to be accepted.
pub async fn serve_tcp(app: App, listener: TcpListener, most: usize, stop: impl Future<Output = ()>) {
    let room = Arc::new(Semaphore::new(most));
    let service = TowerToHyperService::new(router(app));
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &room) => accepted,
            () = &mut stop => break,
        };
        let Ok((socket, place)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Tokens are small and each is waited for.
        let _ = socket.set_nodelay(true);
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        builder.http2().max_send_buf_size(SEND_BUFFER_BYTES).max_concurrent_streams(STREAMS_OF_A_CLIENT_MAX);
        let connection = builder.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(e) = watched.await {
                tracing::debug!(error = %e, "a connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// A connection once there is a place for it.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = room.clone().acquire_owned().await.expect("the semaphore is never closed");
    Ok((listener.accept().await?.0, place))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::http::Phase;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::watch,
    };

    /// Asks and waits for the first bytes of the answer.
    async fn ask(socket: &mut TcpStream) {
        socket.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut start = [0; 12];
        socket.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        while socket.try_read(&mut [0; 512]).is_ok() {}
    }

    #[tokio::test]
    async fn a_connection_over_the_bound_is_served_when_another_has_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = App::alone(watch::channel(Phase::Starting).1);
        tokio::spawn(serve_tcp(app, listener, 1, std::future::pending()));
        let mut first = TcpStream::connect(address).await.unwrap();
        ask(&mut first).await;
        let second = tokio::spawn(async move { ask(&mut TcpStream::connect(address).await.unwrap()).await });
        for _ in 0..20 {
            ask(&mut first).await;
        }
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap();
    }
}
