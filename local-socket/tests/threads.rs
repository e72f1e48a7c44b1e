//! Between threads: nobody waits for what is there already, however it is cut.
#![allow(clippy::unwrap_used)]

use local_socket::LocalStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PAIRS: u8 = 8;
const MESSAGES: u32 = 2_000;

/// Says numbers, each in two pieces, and hears each again.
async fn ask(mut socket: LocalStream) {
    let mut heard = [0; 4];
    for number in 0..MESSAGES {
        let bytes = number.to_be_bytes();
        let (first, second) = bytes.split_at(number as usize % 4);
        socket.write_all(first).await.unwrap();
        socket.write_all(second).await.unwrap();
        socket.read_exact(&mut heard).await.unwrap();
        assert_eq!(u32::from_be_bytes(heard), number);
    }
}

/// Says again what it hears, as it comes, until nothing comes.
async fn answer(mut socket: LocalStream) -> u32 {
    let (mut bytes, mut room) = (0, [0; 16]);
    loop {
        match socket.read(&mut room).await.unwrap() {
            0 => return bytes,
            some => {
                socket.write_all(&room[..some]).await.unwrap();
                bytes += some as u32;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_message_is_heard_and_the_end() {
    let mut answering = Vec::new();
    for _ in 0..PAIRS {
        let (one, other) = LocalStream::pair().unwrap();
        tokio::spawn(ask(one));
        answering.push(tokio::spawn(answer(LocalStream::new(other).unwrap())));
    }
    for answered in answering {
        assert_eq!(answered.await.unwrap(), 4 * MESSAGES);
    }
}
