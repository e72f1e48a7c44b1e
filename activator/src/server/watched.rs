//! A connection that ends in order when everything does: it finishes what it answers, and takes nothing more.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use hyper_util::server::graceful::GracefulConnection;
use pin_project_lite::pin_project;
use tokio::{sync::watch, task::unconstrained};

pin_project! {
    /// See the module.
    pub struct Watched<C> {
        #[pin]
        connection: C,
        // Has changed once everything ends.
        stopping: watch::Receiver<bool>,
        // The same, to wait for. `None` once that is known.
        stopped: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
        // Who is woken for it.
        waits: Option<Waker>,
    }
}

impl<C> Watched<C> {
    /// Ends when that comes true, or can no longer.
    pub fn new(connection: C, stopping: watch::Receiver<bool>) -> Self {
        let mut told = stopping.clone();
        let stopped = async move {
            // An error says that nobody is left who could tell. Out of its task's budget it would not be waited for at all.
            let _gone = unconstrained(told.wait_for(|stopping| *stopping)).await;
        };
        Self { connection, stopping, stopped: Some(Box::pin(stopped)), waits: None }
    }
}

impl<C: GracefulConnection> Future for Watched<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let mut this = self.project();
        // A connection is polled with all that moves on it: who will be woken already need not ask again.
        let waits = this.waits.as_ref().is_some_and(|waits| waits.will_wake(cx.waker()));
        if (!waits || this.stopping.has_changed().unwrap_or(true))
            && let Some(stopped) = this.stopped
        {
            *this.waits = Some(cx.waker().clone());
            if stopped.as_mut().poll(cx).is_ready() {
                *this.stopped = None;
                this.connection.as_mut().graceful_shutdown();
            }
        }
        this.connection.poll(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use axum::{body::Body, response::Response};
    use http::Request;
    use hyper::{body::Incoming, service::service_fn};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use crate::server::Server;

    #[tokio::test]
    async fn a_connection_that_waits_for_its_next_request_ends_with_its_server() {
        let answer = service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new(Body::from("here"))));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::start(listener, answer, None).unwrap();
        let mut client = TcpStream::connect(server.address).await.unwrap();
        let mut answered = Vec::new();
        for times in 1..=2 {
            client.write_all(b"GET / HTTP/1.1\r\nhost: m\r\n\r\n").await.unwrap();
            while answered.windows(4).filter(|bytes| bytes == b"here").count() < times {
                assert!(client.read_buf(&mut answered).await.unwrap() > 0);
            }
        }
        timeout(Duration::from_secs(60), server.stop(Duration::ZERO)).await.unwrap();
        assert_eq!(client.read_buf(&mut answered).await.unwrap(), 0);
    }
}
