//! HTTP/1.1 as a client: answers of every shape come to the same however they are cut, and nonsense is an error.
#![allow(clippy::unwrap_used)]

use activator::http1::{Body, Head, Malformed, read_head};
use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::HOST, response::Parts};
use proptest::prelude::*;

/// What a whole answer came to.
#[derive(Debug, PartialEq)]
struct Read {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    /// Another can follow.
    followed: bool,
    /// Of what comes behind it.
    rest: Vec<u8>,
}

/// Reads an answer that comes in these pieces, and whose connection is closed then.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<Read>, Malformed> {
    let (mut bytes, mut body) = (BytesMut::new(), Vec::new());
    let mut head: Option<(Parts, Body)> = None;
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
    let Some((parts, mut rest)) = head else { return Ok(None) };
    let followed = rest.is_followed();
    let whole = rest.ends_here();
    let read = Read { status: parts.status, headers: parts.headers, body, followed, rest: bytes.to_vec() };
    Ok(whole.then_some(read))
}

fn whole(text: &str) -> Read {
    read([text.as_bytes()]).unwrap().unwrap()
}

/// How a body's end is told.
#[derive(Clone, Copy, Debug)]
enum Told {
    Length,
    Parts,
    Close,
}

/// How its body's end is told, the body in parts, headers, and whether something is said before it.
type Answer = (Told, Vec<Vec<u8>>, Vec<(String, String)>, bool);

fn answers() -> impl Strategy<Value = Answer> {
    let told = prop_oneof![Just(Told::Length), Just(Told::Parts), Just(Told::Close)];
    let parts = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..6);
    let headers = prop::collection::vec(("x-[a-z]{1,8}", "[!-~]{0,12}"), 0..6);
    (told, parts, headers, any::<bool>())
}

fn write(told: Told, parts: &[Vec<u8>], headers: &[(String, String)], early: bool) -> Vec<u8> {
    let mut text = Vec::new();
    if early {
        text.extend(b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
    }
    text.extend(b"HTTP/1.1 200 OK\r\n");
    headers.iter().for_each(|(name, value)| text.extend(format!("{name}: {value}\r\n").into_bytes()));
    match told {
        Told::Length => {
            let length = parts.concat().len();
            text.extend(format!("Content-Length: {length}\r\n\r\n").into_bytes());
            text.extend(parts.concat());
        }
        Told::Parts => {
            text.extend(b"transfer-encoding: Chunked\r\n\r\n");
            for part in parts {
                text.extend(format!("{:X};some=extension\r\n", part.len()).into_bytes());
                text.extend(part);
                text.extend(b"\r\n");
            }
            text.extend(b"0\r\nsome: trailer\r\n\r\n");
        }
        Told::Close => {
            text.extend(b"\r\n");
            text.extend(parts.concat());
        }
    }
    text
}

proptest! {
    #[test]
    fn an_answer_comes_to_the_same_however_it_is_cut(
        (told, parts, headers, early) in answers(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut text = write(told, &parts, &headers, early);
        let length = text.len();
        if !matches!(told, Told::Close) {
            text.extend(b"HTTP/1.1 ");
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).chain([0, text.len()]).collect();
        cuts.sort_unstable();
        let read = read(cuts.windows(2).map(|cut| &text[cut[0]..cut[1]])).unwrap().unwrap();
        prop_assert_eq!(read.body, parts.concat());
        prop_assert_eq!(read.followed, !matches!(told, Told::Close));
        prop_assert_eq!(read.rest, &text[length..]);
        for (name, value) in &headers {
            let all: Vec<_> = read.headers.get_all(name.as_str()).iter().map(HeaderValue::as_bytes).collect();
            prop_assert!(all.contains(&value.as_bytes()));
        }
    }

    #[test]
    fn one_that_breaks_off_is_no_whole_one(
        (told, parts, headers, early) in answers(),
        cut in any::<prop::sample::Index>(),
    ) {
        let text = write(told, &parts, &headers, early);
        let cut = cut.index(text.len());
        if !matches!(told, Told::Close) {
            prop_assert_eq!(read([&text[..cut]]).unwrap(), None);
        }
    }

    #[test]
    fn nonsense_is_an_error_or_an_answer(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read([&text[..]]);
        let _ = read([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", &text[..]]);
    }
}

#[test]
fn what_is_wrong_is_said() {
    for (text, error) in [
        ("HTTP/2 200\r\n\r\n", "the answer's head: invalid HTTP version"),
        ("HTTP/1.1 20 OK\r\n\r\n", "the answer's head: invalid response status"),
        ("HTTP/1.1 101 Switching\r\n\r\n", "the answer changes the protocol"),
        ("HTTP/1.1 200 OK\r\na b: c\r\n\r\n", "the answer's head: invalid header name"),
        ("HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\na", "the length of the answer's body is not one number"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na",
            "the length of the answer's body is not one number",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "the length of the answer's body is not one number",
        ),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", "the transfer coding of the answer's body is unknown"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
            "the length of a part of the answer's body is no number, or not followed by so many bytes",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n\r\n\r\n",
            "the length of a part of the answer's body is no number, or not followed by so many bytes",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc",
            "the length of a part of the answer's body is no number, or not followed by so many bytes",
        ),
    ] {
        assert_eq!(read([text.as_bytes()]).unwrap_err().to_string(), error, "{text:?}");
    }
}

#[test]
fn nothing_grows_without_bound() {
    let endless = "a".repeat(70_000);
    for text in [
        format!("HTTP/1.1 200 OK\r\na: {endless}"),
        format!("HTTP/1.1 200 OK\r\na: {endless}\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101)),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: {endless}"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;{endless}"),
    ] {
        assert!(read([text.as_bytes()]).is_err(), "{} ...", &text[..60]);
    }
}

#[test]
fn what_can_follow_does_and_what_cannot_does_not() {
    let followed = |text: &str| whole(text).followed;
    assert!(followed("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na"));
    assert!(followed("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na"));
    assert!(followed("HTTP/1.1 204 No Content\r\n\r\n"));
    assert!(followed("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"));
    assert!(!followed("HTTP/1.1 200 OK\r\ncontent-length: 1\r\nConnection: x, Close\r\n\r\na"));
    assert!(!followed("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na"));
    assert!(!followed("HTTP/1.1 200 OK\r\n\r\na"));
    let both = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n1\r\na\r\n0\r\n\r\n";
    assert_eq!((whole(both).body, whole(both).followed), (b"a".to_vec(), false));
}

#[test]
fn a_request_is_written_as_it_is_read() {
    let mut out = BytesMut::new();
    let mut head = Head::begin(&mut out, "POST", "/v1/completions");
    head.say(&HOST, b"m.example");
    head.tell(&HeaderName::from_static("x-empty"), |_| Ok(()));
    head.end(u64::MAX);
    let mut room = [httparse::EMPTY_HEADER; 8];
    let mut request = httparse::Request::new(&mut room);
    assert_eq!(request.parse(&out).unwrap(), httparse::Status::Complete(out.len()));
    assert_eq!((request.method, request.path, request.version), (Some("POST"), Some("/v1/completions"), Some(1)));
    let said: Vec<_> = request.headers.iter().map(|header| (header.name, header.value)).collect();
    let length = u64::MAX.to_string();
    assert_eq!(said.len(), 3);
    for header in [("host", &b"m.example"[..]), ("x-empty", b""), ("content-length", length.as_bytes())] {
        assert!(said.contains(&header), "{header:?}");
    }
}
