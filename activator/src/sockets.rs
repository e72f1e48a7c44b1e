//! The listening sockets: bound here, or inherited from a service manager or from the process that this one succeeds. The one file of this
//! crate, beside `watched.rs`, with `unsafe`.
//!
//! **Invariant:** a socket that is handed over never closes in between: who connects meanwhile is answered by whoever accepts first.
#![allow(unsafe_code)]

use std::{
    io,
    net::SocketAddr,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use tokio::net::TcpListener;

/// Descriptors in the order in which a successor gets them: the API's, the admin port's, and a pipe to tell that it is ready.
pub const HANDED: [RawFd; 3] = [3, 4, 5];

/// Descriptors of listening sockets that this process was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// The API's.
    pub api: RawFd,
    /// The admin port's; bound anew where there is none.
    pub admin: Option<RawFd>,
    /// Where to tell that we accept.
    pub ready: Option<RawFd>,
}

impl Inherited {
    /// What a predecessor hands over.
    pub fn handed() -> Self {
        let [api, admin, ready] = HANDED;
        Self { api, admin: Some(admin), ready: Some(ready) }
    }
}

/// Both listeners, and where to tell that they are served.
#[derive(Debug)]
pub struct Sockets {
    /// The API's.
    pub api: TcpListener,
    /// The admin port's.
    pub admin: TcpListener,
    /// Where to tell.
    pub ready: Option<OwnedFd>,
}

/// Why there is no socket.
#[derive(Debug)]
pub struct NoSocket {
    /// Where.
    pub address: SocketAddr,
    /// What the system said.
    pub error: io::Error,
}

/// Takes what was inherited, and binds the rest. To be called once.
pub async fn open(inherited: Option<Inherited>, api: SocketAddr, admin: SocketAddr) -> Result<Sockets, NoSocket> {
    let taken = |descriptor: Option<RawFd>, address| {
        descriptor.map(|descriptor| take(descriptor).map_err(|error| NoSocket { address, error })).transpose()
    };
    let admin_taken = taken(inherited.and_then(|inherited| inherited.admin), admin)?;
    let api_taken = taken(inherited.map(|inherited| inherited.api), api)?;
    let ready = inherited.and_then(|inherited| inherited.ready).map(own).transpose();
    let ready = ready.map_err(|error| NoSocket { address: api, error })?;
    let admin = match admin_taken {
        Some(listener) => listener,
        None => bind(admin).await?,
    };
    let api = match api_taken {
        Some(listener) => listener,
        None => bind(api).await?,
    };
    Ok(Sockets { api, admin, ready })
}

async fn bind(address: SocketAddr) -> Result<TcpListener, NoSocket> {
    TcpListener::bind(address).await.map_err(|error| NoSocket { address, error })
}

fn take(descriptor: RawFd) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(own(descriptor)?);
    listener.set_nonblocking(true)?;
    // Something that is not a listening socket is found out here, and not at the first connection.
    if !rustix::net::sockopt::socket_acceptconn(&listener)? {
        return Err(io::Error::other(format!("the inherited descriptor {descriptor} does not listen")));
    }
    TcpListener::from_std(listener)
}

fn own(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the number came with the process, from whoever started it for this very purpose, and is taken once, before anything else of this
    // process can have closed or reused it; one that is not open fails in the next call.
    let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
    rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC)?;
    Ok(owned)
}
