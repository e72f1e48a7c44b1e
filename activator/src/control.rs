//! The activator's end of a control socket: one packet is one JSON message, and a descriptor may ride along.
//!
//! **Invariant:** never blocks. A peer that does not read its messages is broken, not waited for.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use protocol::control::{FromRuntime, MESSAGE_BYTES_MAX, ToRuntime};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use tokio::io::unix::AsyncFd;

use crate::watched;

/// One end of a `SOCK_SEQPACKET` pair.
#[derive(Debug)]
pub struct Control {
    socket: AsyncFd<OwnedFd>,
}

/// A pair: ours, and the one to hand to the child (blocking, close-on-exec like every other).
pub fn pair() -> io::Result<(Control, OwnedFd)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    let socket = watched::readable(ours)?;
    Ok((Control { socket }, theirs))
}

impl Control {
    /// Sends one message, with a descriptor if there is one.
    pub fn send(&self, message: &ToRuntime, descriptor: Option<&OwnedFd>) -> io::Result<()> {
        let packet = serde_json::to_vec(message)?;
        if packet.len() > MESSAGE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "control message too long"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.map(|fd| [fd.as_fd()]);
        if let Some(descriptors) = &descriptors {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)), "there is space for one descriptor");
        }
        rustix::net::sendmsg(self.socket.get_ref(), &[IoSlice::new(&packet)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next message; `None` at end of file.
    pub async fn recv(&self) -> io::Result<Option<FromRuntime>> {
        loop {
            let mut ready = self.socket.readable().await?;
            if let Ok(received) = ready.try_io(|_| self.try_recv()) {
                return received;
            }
        }
    }

    /// The next message if it is there; `WouldBlock` if not.
    pub fn try_recv(&self) -> io::Result<Option<FromRuntime>> {
        let mut packet = vec![0; MESSAGE_BYTES_MAX];
        let (_, bytes) = rustix::net::recv(self.socket.get_ref(), packet.as_mut_slice(), RecvFlags::TRUNC)?;
        match packet.get(..bytes) {
            Some([]) => Ok(None),
            Some(packet) => Ok(Some(serde_json::from_slice(packet)?)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, format!("control message of {bytes} bytes"))),
        }
    }
}
