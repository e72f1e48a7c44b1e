//! Signals: what this process is asked for from outside, and how often.

use std::io;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// What signals ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM, SIGINT.
    End,
    /// SIGUSR2.
    HandOver,
}

/// Those that this process heeds.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hand_over: Signal,
}

impl Signals {
    /// From now on they are heard, and do nothing else.
    ///
    /// # Errors
    /// As the system says.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hand_over: signal(SignalKind::user_defined2())?,
        })
    }

    /// What this process is asked for next.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hand_over.recv() => Asked::HandOver,
        }
    }

    /// Waits until this process is asked to end.
    pub async fn ended(&mut self) {
        while self.next().await != Asked::End {}
    }

    /// How often this process was asked to end, so many times already, as it goes on.
    pub fn count(mut self, asked: u32) -> watch::Receiver<u32> {
        let (told, count) = watch::channel(asked);
        tokio::spawn(async move {
            loop {
                self.ended().await;
                told.send_modify(|count| *count += 1);
            }
        });
        count
    }
}

/// Pends until this process was asked to end so often.
pub async fn asked(mut count: watch::Receiver<u32>, often: u32) {
    if count.wait_for(|count| *count >= often).await.is_err() {
        std::future::pending().await
    }
}
