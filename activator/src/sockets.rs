//! The listening sockets: bound here, or inherited from a service manager or from the process that this one succeeds. The one file of this
//! crate, beside `watched.rs`, with `unsafe`.
//!
//! **Invariant:** a socket that is handed over never closes in between: who connects meanwhile is answered by whoever accepts first.
#![allow(unsafe_code)]

use std::{
    io,
    net::SocketAddr,
    os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use tokio::net::TcpListener;

/// Descriptors in the order in which a successor gets them: the API's, the admin port's, and a pipe to tell that it is ready.
pub const HANDED: [RawFd; 3] = [3, 4, 5];

/// Descriptors of listening sockets that this process was started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// The API's.
    pub api: RawFd,
    /// The admin port's; bound anew where there is none.
    pub admin: Option<RawFd>,
    /// Where to tell that we accept.
    pub ready: Option<RawFd>,
    /// Further ones that came with them and are not used; no child of ours gets them.
    pub others: std::ops::Range<RawFd>,
}

impl Inherited {
    /// What a predecessor hands over.
    pub fn handed() -> Self {
        let [api, admin, ready] = HANDED;
        Self { api, admin: Some(admin), ready: Some(ready), others: 0..0 }
    }
}

/// Descriptors that are this process's own now.
#[derive(Debug, Default)]
pub struct Claimed {
    api: Option<OwnedFd>,
    admin: Option<OwnedFd>,
    ready: Option<OwnedFd>,
    /// Who handed them over goes on listening when this process does not.
    pub managed: bool,
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

/// Takes what was inherited. To be called once, while the process has opened nothing of its own yet.
///
/// # Errors
/// A number is no open descriptor of the kind that it should be; then none is touched.
pub fn claim(inherited: Option<Inherited>) -> io::Result<Claimed> {
    let Some(Inherited { api, admin, ready, others }) = inherited else { return Ok(Claimed::default()) };
    for descriptor in [Some(api), admin].into_iter().flatten() {
        let listens = with(descriptor, |borrowed| rustix::net::sockopt::socket_acceptconn(borrowed));
        if !listens.is_ok_and(|listens| listens) {
            return Err(io::Error::other(format!("the inherited descriptor {descriptor} is no listening socket")));
        }
    }
    for descriptor in [Some(api), admin, ready].into_iter().flatten().chain(others.clone()) {
        with(descriptor, |borrowed| rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC))?;
    }
    let managed = ready.is_none();
    Ok(Claimed { api: Some(own(api)), admin: admin.map(own), ready: ready.map(own), managed })
}

/// Listens with what was claimed, and binds the rest.
pub async fn open(claimed: Claimed, api: SocketAddr, admin: SocketAddr) -> Result<Sockets, NoSocket> {
    let admin = listen(claimed.admin, admin).await?;
    let api = listen(claimed.api, api).await?;
    Ok(Sockets { api, admin, ready: claimed.ready })
}

async fn listen(claimed: Option<OwnedFd>, address: SocketAddr) -> Result<TcpListener, NoSocket> {
    let listener = match claimed {
        None => TcpListener::bind(address).await,
        Some(descriptor) => {
            let listener = std::net::TcpListener::from(descriptor);
            listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener))
        }
    };
    listener.map_err(|error| NoSocket { address, error })
}

fn with<T>(descriptor: RawFd, act: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<T>) -> io::Result<T> {
    // SAFETY: the number is not -1, and is used for this one call alone, which fails if it is not open; nothing is closed.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    Ok(act(borrowed)?)
}

fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: it is open (it was used just before), came with the process for this very purpose, and `claim` is called once, before this
    // process has opened or adopted any descriptor: nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
