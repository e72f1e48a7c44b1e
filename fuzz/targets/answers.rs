//! What a runtime answers by HTTP/1.1: read whole, or an error; and the same, cut in two. The first byte says where, the second what stands before it.
#![no_main]

use activator::http1::{Malformed, read_head};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

const HEADS: [&[u8]; 4] = [
    b"",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
];

/// Status, headers, body, whether that is over, and what follows it.
type Read = (u16, usize, Vec<u8>, bool, Vec<u8>);

fn read(pieces: &[&[u8]]) -> Result<Option<Read>, Malformed> {
    let (mut bytes, mut head, mut body) = (BytesMut::new(), None, Vec::new());
    for piece in pieces {
        bytes.extend_from_slice(piece);
        if head.is_none() {
            head = read_head(&mut bytes)?;
        }
        if let Some((_, rest)) = &mut head {
            while let Some(data) = rest.next(&mut bytes)? {
                assert!(!data.is_empty());
                body.extend_from_slice(&data);
            }
        }
    }
    Ok(head.map(|(parts, rest)| {
        assert!(rest.is_over() || !rest.is_followed());
        (parts.status.as_u16(), parts.headers.len(), body, rest.is_over(), bytes.to_vec())
    }))
}

fuzz_target!(|bytes: &[u8]| {
    let [cut, head, text @ ..] = bytes else { return };
    let text = [HEADS[usize::from(*head) % HEADS.len()], text].concat();
    let (front, back) = text.split_at(usize::from(*cut).min(text.len()));
    match (read(&[&text]), read(&[front, back])) {
        (Ok(whole), Ok(cut)) => assert_eq!(whole, cut),
        (Err(error), _) | (_, Err(error)) => assert!(!error.to_string().is_empty()),
    }
});
