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
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown},
};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};

/// One end. See the crate.
#[derive(Debug)]
pub struct LocalStream {
    /// Watched for bytes.
    socket: AsyncFd<OwnedFd>,
    /// The same, watched for room, from when there was none until there was. A descriptor of its own, as each is watched once.
    room: Option<AsyncFd<OwnedFd>>,
}

impl LocalStream {
    /// One end of a stream, which does not block from now on. Within a tokio runtime.
    ///
    /// # Errors
    /// The system's, where it cannot be watched.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket: watch(socket, Interest::READABLE)?, room: None })
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
        loop {
            match send(self.socket.get_ref()) {
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => continue,
                sent => {
                    self.room = None;
                    return Poll::Ready(sent.map_err(io::Error::from));
                }
            }
            let room = match self.room.take() {
                Some(room) => room,
                None => watch(self.socket.get_ref().try_clone()?, Interest::WRITABLE)?,
            };
            let room = self.room.insert(room);
            // What is known of it is older than the try, or is looked at again by the next one.
            ready!(room.poll_write_ready(cx))?.clear_ready();
        }
    }
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
            rustix::net::sendmsg(socket, parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
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
