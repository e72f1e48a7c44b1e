//! A connection of HTTP/1.1 to a runtime: one request after the other, whose bytes whoever asks moves.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    os::fd::OwnedFd,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::response::Parts;
use local_socket::LocalStream;
use rustix::net::sockopt;
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    task::unconstrained,
};

use super::Ask;
use crate::http1::{self, Body, Malformed};

/// What an answer may be ahead of its client in the kernel; twice of it with the kernel's own accounts.
const SOCKET_BYTES: usize = 64 * 1024;
/// Room for what is read, and what is too little of it.
const READ_BYTES: (usize, usize) = (8 * 1024, 1024);
/// Room for what is written; more is made where that is too little.
const WRITTEN_BYTES: usize = 2 * 1024;
/// A body as small as this is sent in one piece with its head.
const COPIED_BYTES_MAX: u64 = 16 * 1024;
/// Pieces that are sent at once.
const PIECES: usize = 4;

/// Why a request's own connection broke.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Bytes cannot be moved.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What is answered is no HTTP/1.1.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// Without a word.
    #[error("the connection ended")]
    Ended,
}

/// See the module.
#[derive(Debug)]
pub struct Connection {
    socket: LocalStream,
    /// Read, and not yet understood.
    read: BytesMut,
    /// Where heads are written.
    written: BytesMut,
    /// Of the request, still to be sent.
    unsent: VecDeque<Bytes>,
}

/// One, and its other end.
pub fn pair() -> io::Result<(Connection, OwnedFd)> {
    let (socket, theirs) = LocalStream::pair()?;
    sockopt::set_socket_send_buffer_size(&theirs, SOCKET_BYTES)?;
    let (read, written) = (BytesMut::new(), BytesMut::new());
    Ok((Connection { socket, read, written, unsent: VecDeque::new() }, theirs))
}

impl Connection {
    /// Nothing was said on it since the last answer, and it is open, as far as can be seen.
    pub fn is_free(&mut self, cx: &mut Context<'_>) -> bool {
        // Whether it is there is asked of nobody's budget.
        self.is_idle() && pin!(unconstrained(poll_fn(|cx| self.poll_read(cx)))).poll(cx).is_pending()
    }

    /// Neither has more to say.
    pub fn is_idle(&self) -> bool {
        self.unsent.is_empty() && self.read.is_empty()
    }

    /// Takes a request to be sent by who waits for its answer.
    pub fn begin(&mut self, ask: &Ask<'_>) {
        let length = ask.length();
        self.written.reserve(WRITTEN_BYTES);
        ask.write_head(&mut self.written);
        let small = length <= COPIED_BYTES_MAX;
        if small {
            ask.parts().for_each(|part| self.written.extend_from_slice(part));
        }
        self.unsent.push_back(self.written.split().freeze());
        if !small {
            self.unsent.extend(ask.parts().cloned());
        }
    }

    /// Sends what can be sent, and waits for the answer's head.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Parts, Body), Broken>> {
        // Who answers before it has read all may have closed its end: then its answer says more.
        let sent = self.poll_send(cx);
        loop {
            if !self.read.is_empty()
                && let Some(read) = http1::read_head(&mut self.read)?
            {
                return Poll::Ready(Ok(read));
            }
            if ready!(self.poll_read(cx))? == 0 {
                return Poll::Ready(Err(match sent {
                    Poll::Ready(Err(error)) => error.into(),
                    _ => Broken::Ended,
                }));
            }
        }
    }

    /// The next bytes of the answer's body; `None` at its end.
    pub fn poll_body(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        // As above.
        let _sent = self.poll_send(cx);
        loop {
            match body.next(&mut self.read) {
                Ok(Some(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(None) if body.is_over() => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) if body.ends_here() => return Poll::Ready(None),
                Ok(0) => return Poll::Ready(Some(Err(Broken::Ended))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let count = self.unsent.len().min(PIECES);
            pieces.iter_mut().zip(&self.unsent).for_each(|(piece, part)| *piece = IoSlice::new(part));
            let mut sent = ready!(match &pieces[..count] {
                [one] => Pin::new(&mut self.socket).poll_write(cx, one),
                several => Pin::new(&mut self.socket).poll_write_vectored(cx, several),
            })?;
            while let Some(part) = self.unsent.front_mut() {
                let of_this = sent.min(part.len());
                part.advance(of_this);
                sent -= of_this;
                if !part.is_empty() {
                    break;
                }
                self.unsent.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// How many bytes more there are now; none where the other end is closed.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // The same bytes again where nobody has any of them any more, as those are in the processor's cache.
        let reclaimed = self.read.is_empty() && self.read.try_reclaim(READ_BYTES.0);
        if !reclaimed && self.read.capacity() - self.read.len() < READ_BYTES.1 {
            self.read.reserve(READ_BYTES.0);
        }
        pin!(self.socket.read_buf(&mut self.read)).poll(cx)
    }
}
