//! A connection that ends in order when everything does: it finishes what it answers, and takes nothing more.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use hyper_util::server::graceful::GracefulConnection;
use pin_project_lite::pin_project;
use tokio::sync::watch;

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
            // An error says that nobody is left who could tell.
            let _gone = told.wait_for(|stopping| *stopping).await;
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
