//! A stream of bytes between two processes of one machine (`AF_UNIX`, `SOCK_STREAM`), for tokio.
//!
//! **Contract:** who has one is woken by bytes that come and by the end of them; by room for bytes that go only while it waits for that. tokio's
//! own stream is watched for room at all times, and the kernel tells the writer of a Unix socket of room whenever its other end has read: so each
//! message between two processes wakes the one that sent it once more, for nothing, and whoever reads pays for the waking.

use std::{
    io::{self, IoSlice},
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    task::coop::poll_proceed,
    time::{Sleep, sleep},
};

/// Parts that the kernel takes at once.
const PARTS_MAX: usize = 1024;
/// A pause after the process had no descriptor to spare.
const NONE_TO_SPARE: Duration = Duration::from_millis(5);

/// One end. See the crate. To be used within a tokio runtime whose time runs.
#[derive(Debug)]
pub struct LocalStream {
    /// Watched for bytes.
    socket: AsyncFd<OwnedFd>,
    room: Room,
}

/// What is done about room for bytes that go.
#[derive(Debug)]
enum Room {
    /// Nothing: nobody waits for it.
    Unasked,
    /// The same socket is watched for it, by a descriptor of its own, as each is watched once.
    Watched(AsyncFd<OwnedFd>),
    /// The process has no more descriptors: it is looked for now and then.
    Later(Pin<Box<Sleep>>),
}

impl LocalStream {
    /// One end of a stream, which does not block from now on.
    ///
    /// # Errors
    /// The system's, where it cannot be watched.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket: watch(socket, Interest::READABLE)?, room: Room::Unasked })
    }

    /// One end, and the other for another process: that one blocks.
    ///
    /// # Errors
    /// The system's, where it has no more descriptors.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        Ok((Self::new(ours.into())?, theirs.into()))
    }

    /// Sends as soon as there is room.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        send: impl Fn(&OwnedFd) -> Result<usize, Errno>,
    ) -> Poll<io::Result<usize>> {
        let budget = ready!(poll_proceed(cx));
        loop {
            match send(self.socket.get_ref()) {
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => continue,
                sent => {
                    self.room = Room::Unasked;
                    budget.made_progress();
                    return Poll::Ready(sent.map_err(io::Error::from));
                }
            }
            ready!(self.poll_room(cx))?;
        }
    }

    /// There may be room now.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Room::Unasked = self.room {
            let watched = self.socket.get_ref().try_clone().and_then(|socket| watch(socket, Interest::WRITABLE));
            self.room = match watched {
                Ok(socket) => Room::Watched(socket),
                Err(error) if is_want(&error) => Room::Later(Box::pin(sleep(NONE_TO_SPARE))),
                Err(error) => return Poll::Ready(Err(error)),
            };
        }
        match &mut self.room {
            // What is known of it is older than the next try.
            Room::Watched(room) => ready!(room.poll_write_ready(cx))?.clear_ready(),
            Room::Later(pause) => {
                ready!(pause.as_mut().poll(cx));
                self.room = Room::Unasked;
            }
            Room::Unasked => {}
        }
        Poll::Ready(Ok(()))
    }
}

/// Of descriptors, of places in the event loop, or of memory: there may be some later.
fn is_want(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOSPC | Errno::NOMEM))
}

/// `interest` alone.
fn watch(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, always names the same descriptor, and stays open for as long as the `AsyncFd` owns it: nobody here takes it
    // out or closes it behind its back.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

impl AsyncRead for LocalStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(cx))?;
            // SAFETY: the kernel alone writes there, and nothing takes away what was initialized.
            let room = unsafe { buf.unfilled_mut() };
            let wanted = room.len();
            let read = match rustix::net::recv(self.socket.get_ref(), room, RecvFlags::empty()) {
                Ok(((read, _), _)) => read.len(),
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    continue;
                }
                Err(Errno::INTR) => continue,
                Err(error) => return Poll::Ready(Err(error.into())),
            };
            // There was no more, and what comes is told anew: one try less that comes to nothing.
            if 0 < read && read < wanted {
                ready.clear_ready();
            }
            // SAFETY: the kernel has written so many, from the beginning of what was unfilled.
            unsafe { buf.assume_init(read) };
            buf.advance(read);
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for LocalStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, |socket| rustix::net::send(socket, bytes, SendFlags::NOSIGNAL))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, |socket| {
            rustix::net::sendmsg(
                socket,
                &parts[..parts.len().min(PARTS_MAX)],
                &mut SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL,
            )
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(self.socket.get_ref(), Shutdown::Write).map_err(io::Error::from))
    }
}
