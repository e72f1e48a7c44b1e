//! The control socket: packets ↔ messages. A thread reads, because receiving descriptors blocks; sending never does.

use protocol::control::{FromRuntime, MESSAGE_BYTES_MAX, ToRuntime};
use rustix::{
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send},
};
use std::{
    fs::File,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    sync::Arc,
    thread,
};
use tokio::sync::mpsc;

/// Messages that wait to be handled.
const QUEUE_MAX: usize = 16;

/// A message and the descriptor that came with it.
pub type Received = (ToRuntime, Option<File>);

/// This end of the control socket.
pub struct Control {
    socket: Arc<OwnedFd>,
    received: mpsc::Receiver<Result<Received, String>>,
}

impl Control {
    /// Takes the socket over and starts to read it.
    pub fn start(socket: OwnedFd) -> io::Result<Self> {
        let socket = Arc::new(socket);
        let (sender, received) = mpsc::channel(QUEUE_MAX);
        let reading = socket.clone();
        thread::Builder::new().name("control".into()).spawn(move || {
            while let Some(next) = receive(&reading) {
                let broken = next.is_err();
                if sender.blocking_send(next).is_err() || broken {
                    return;
                }
            }
        })?;
        Ok(Self { socket, received })
    }

    /// The next message; `None` once the other side is gone.
    ///
    /// # Errors
    /// The other side does not keep to the protocol.
    pub async fn next(&mut self) -> Option<Result<Received, String>> {
        self.received.recv().await
    }

    /// Waits for the other side's end, whatever it says before.
    pub async fn gone(&mut self) {
        while self.next().await.is_some() {}
    }

    /// Sends without waiting.
    ///
    /// # Errors
    /// The other side is gone, or does not read.
    pub fn send(&self, message: &FromRuntime) -> io::Result<()> {
        let mut message = message.clone();
        if let FromRuntime::Failed { message, .. } = &mut message {
            // A quarter of the limit leaves room for any escaping.
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX / 8));
        }
        let bytes = serde_json::to_vec(&message).expect("control messages serialise");
        debug_assert!(bytes.len() <= MESSAGE_BYTES_MAX);
        send(&self.socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// One packet; `None` at the end.
fn receive(socket: &OwnedFd) -> Option<Result<Received, String>> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let flags = RecvFlags::CMSG_CLOEXEC;
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            other => break other,
        }
    };
    let received = match received {
        Ok(r) if r.bytes == 0 => return None,
        Ok(r) => r,
        // The other side died with our messages unread.
        Err(Errno::CONNRESET) => return None,
        Err(e) => return Some(Err(format!("reading the control socket: {e}"))),
    };
    // A descriptor that there was no room for is missed by who needs it.
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Some(Err(format!("a control message has more than {MESSAGE_BYTES_MAX} bytes")));
    }
    let file = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next().map(File::from),
        _ => None,
    });
    let message = serde_json::from_slice(&bytes[..received.bytes]);
    Some(message.map(|m| (m, file)).map_err(|e| format!("a control message is not understood: {e}")))
}
