//! What is sent comes, whoever is slow; and what the kernel is asked to wake us for.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    io::IoSlice,
    os::fd::{AsRawFd, OwnedFd},
};

use local_socket::LocalStream;
use rustix::{
    net::sockopt::set_socket_send_buffer_size,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// `EPOLLIN` and `EPOLLOUT`.
const BYTES: u32 = 1;
const ROOM: u32 = 4;
/// What a socket holds, about.
const HELD: usize = 64 << 10;
/// More than that.
const MANY: usize = 8 << 20;

/// What this process's event loops watch, as the kernel tells it: what for, by descriptor. A loop may have several names.
fn watched() -> BTreeMap<i32, u32> {
    let loops = fs::read_dir("/proc/self/fd").unwrap().flatten().filter(|entry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().contains("[eventpoll]"))
    });
    let told = loops.map(|entry| {
        let name = entry.file_name().into_string().unwrap();
        fs::read_to_string(format!("/proc/self/fdinfo/{name}")).unwrap()
    });
    let line = |line: &str| {
        let mut words = line.strip_prefix("tfd:")?.split_whitespace();
        let descriptor = words.next()?.parse().ok()?;
        Some((descriptor, u32::from_str_radix(words.nth(1)?, 16).ok()?))
    };
    told.flat_map(|told| told.lines().filter_map(line).collect::<Vec<_>>()).collect()
}

/// How often this process watches sockets for bytes, and for room; its event loops have descriptors that are none.
fn sockets_watched() -> (usize, usize) {
    let is_socket = |descriptor: &i32| {
        let target = fs::read_link(format!("/proc/self/fd/{descriptor}")).unwrap();
        target.to_string_lossy().starts_with("socket:")
    };
    let sockets: Vec<_> = watched().into_iter().filter(|(descriptor, _)| is_socket(descriptor)).collect();
    let watched_for = |what: u32| sockets.iter().filter(|(_, watched)| watched & what != 0).count();
    (watched_for(BYTES), watched_for(ROOM))
}

fn pair() -> (LocalStream, LocalStream) {
    let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
    [&one, &other].into_iter().for_each(|end| set_socket_send_buffer_size(end, HELD).unwrap());
    (LocalStream::new(one.into()).unwrap(), LocalStream::new(other.into()).unwrap())
}

/// Runs while this process may open nothing more.
async fn without_descriptors(work: impl Future<Output = ()>) {
    let before = getrlimit(Resource::Nofile);
    // The lowest that is free, as the next one is.
    let free = fs::File::open("/proc/self/stat").unwrap().as_raw_fd();
    setrlimit(Resource::Nofile, Rlimit { current: Some(free as u64), ..before }).unwrap();
    assert!(fs::File::open("/proc/self/stat").is_err());
    work.await;
    setrlimit(Resource::Nofile, before).unwrap();
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i / 256 + i) as u8).collect()
}

// One test, as others' sockets would be counted.
#[tokio::test]
async fn room_is_watched_for_while_somebody_waits_for_it() {
    let (bytes, room) = sockets_watched();
    let (theirs, other): (UnixStream, OwnedFd) = {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        (UnixStream::from_std(one).unwrap(), other.into())
    };
    assert_eq!(sockets_watched(), (bytes + 1, room + 1), "tokio's own is, always");
    drop((theirs, other));
    let (mut one, mut other) = pair();
    assert_eq!(sockets_watched(), (bytes + 2, room));
    one.write_all(b"a question").await.unwrap();
    let mut read = [0; 10];
    other.read_exact(&mut read).await.unwrap();
    assert_eq!((&read, sockets_watched()), (b"a question", (bytes + 2, room)));
    let sent = pattern(MANY);
    let mut received = Vec::new();
    tokio::join!(
        async {
            one.write_all(&sent).await.unwrap();
            one.shutdown().await.unwrap();
        },
        async {
            // Polled second: the first has filled the socket, and waits.
            assert_eq!(sockets_watched(), (bytes + 2, room + 1));
            other.read_to_end(&mut received).await.unwrap();
        }
    );
    assert!(received == sent);
    assert_eq!(sockets_watched(), (bytes + 2, room), "nobody waits any more");

    // In parts, to who reads in others.
    let (mut one, mut other) = pair();
    let parts: Vec<_> = sent.chunks(100_003).map(IoSlice::new).collect();
    let sending = async {
        let mut parts = &mut parts.clone()[..];
        while !parts.is_empty() {
            let bytes = one.write_vectored(parts).await.unwrap();
            IoSlice::advance_slices(&mut parts, bytes);
        }
        drop(one);
    };
    let receiving = async {
        let (mut received, mut part) = (Vec::new(), vec![0; 70_001]);
        loop {
            match other.read(&mut part).await.unwrap() {
                0 => return (received, other),
                bytes => received.extend_from_slice(&part[..bytes]),
            }
        }
    };
    let ((), (received, mut other)) = tokio::join!(sending, receiving);
    assert!(received == sent);
    // The end is seen again, and nothing can be said to who has gone: an error, and no signal.
    assert_eq!(other.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(other.write(b"too late").await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);

    // Without a descriptor to spare it takes longer, and comes to the same.
    let (mut one, mut other) = pair();
    without_descriptors(async {
        let part = &sent[..4 * HELD];
        let mut received = vec![0; part.len()];
        let (sending, receiving) = tokio::join!(one.write_all(part), other.read_exact(&mut received));
        sending.unwrap();
        receiving.unwrap();
        assert!(received == part);
    })
    .await;

    // Who waits for room when the other end goes.
    let (mut one, other) = pair();
    let (sending, ()) = tokio::join!(one.write_all(&sent), async { drop(other) });
    assert_eq!(sending.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}
