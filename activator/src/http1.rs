//! HTTP/1.1 as a client on a connection of its own speaks it (RFC 9112): requests written, answers read.
//!
//! **Contract:** bytes in, bytes out; nothing here waits or knows a socket. What is read may have been cut anywhere, and comes to the same. It is
//! foreign: bounded, and an error that says what is wrong, never a panic.

use std::{fmt, mem::MaybeUninit};

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderName, HeaderValue, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
    response::Parts,
};
use protocol::digits;

/// Bytes of an answer's head at most, or of what follows a body.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Headers of an answer at most.
const HEADERS_MAX: usize = 100;
/// Bytes in which the length of a part of a body is said, at most.
const SIZE_BYTES_MAX: usize = 256;

/// In place of lengths that differ.
static NO_LENGTH: HeaderValue = HeaderValue::from_static("");

/// As many bytes of a body are copied rather than shared.
const COPIED_BYTES_MAX: usize = 1024;

/// What is wrong with an answer.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// As httparse says.
    #[error("the answer's head: {0}")]
    Head(#[from] httparse::Error),
    /// A header's value has bytes that it may not have.
    #[error("the answer's header '{0}' is malformed")]
    Header(HeaderName),
    /// Its head, or what follows its body, has no end.
    #[error("the answer's head is larger than {HEAD_BYTES_MAX} bytes")]
    HeadTooLarge,
    /// Several, or no number.
    #[error("the length of the answer's body is not one number")]
    Length,
    /// Something else than `chunked`.
    #[error("the transfer coding of the answer's body is unknown")]
    Coding,
    /// Of one in parts.
    #[error("the length of a part of the answer's body is no number, or not followed by so many bytes")]
    Part,
    /// It would be taken for the answer's beginning.
    #[error("the answer changes the protocol")]
    Upgrade,
}

/// A request's head, being written.
#[derive(Debug)]
pub struct Head<'a>(&'a mut BytesMut);

impl<'a> Head<'a> {
    /// Its first line.
    pub fn begin(out: &'a mut BytesMut, method: &str, path: &str) -> Self {
        for part in [method, " ", path, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        Self(out)
    }

    /// One more header, which is nothing of the body's length, nor of the connection.
    pub fn say(&mut self, name: &HeaderName, value: &[u8]) {
        for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
            self.0.extend_from_slice(part);
        }
    }

    /// The same, of a value that is written here, without line breaks.
    pub fn tell(&mut self, name: &HeaderName, value: impl FnOnce(&mut BytesMut) -> fmt::Result) {
        self.0.extend_from_slice(name.as_str().as_bytes());
        self.0.extend_from_slice(b": ");
        value(self.0).expect("memory grows");
        self.0.extend_from_slice(b"\r\n");
    }

    /// The body has so many bytes.
    pub fn end(mut self, length: u64) {
        self.tell(&CONTENT_LENGTH, |out| digits::decimal(length, out));
        self.0.extend_from_slice(b"\r\n");
    }
}

/// An answer's head and how its body is told; taken from the front of what was read. `None` as long as it is not whole. What is said before the
/// answer itself (`100 Continue` and the like) is passed over.
pub fn read_head(bytes: &mut BytesMut) -> Result<Option<(Parts, Body)>, Malformed> {
    loop {
        let Some(parts) = one_head(bytes)? else { return Ok(None) };
        match parts.status {
            StatusCode::SWITCHING_PROTOCOLS => return Err(Malformed::Upgrade),
            status if status.is_informational() => {}
            _ => {
                let mut body = Body::of(&parts)?;
                body.go_on(bytes)?;
                return Ok(Some((parts, body)));
            }
        }
    }
}

fn one_head(bytes: &mut BytesMut) -> Result<Option<Parts>, Malformed> {
    let mut room = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut read = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut read, bytes, &mut room)? {
        httparse::Status::Complete(length) if length <= HEAD_BYTES_MAX => length,
        httparse::Status::Partial if bytes.len() <= HEAD_BYTES_MAX => return Ok(None),
        _ => return Err(Malformed::HeadTooLarge),
    };
    let mut response = Response::new(());
    *response.version_mut() = if read.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    // httparse takes three digits.
    *response.status_mut() =
        read.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(httparse::Error::Status)?;
    // Values are parts of a copy, and keep nothing else of what was read.
    let (head, begin) = (Bytes::copy_from_slice(&bytes[..length]), bytes.as_ptr() as usize);
    let headers = response.headers_mut();
    headers.reserve(read.headers.len());
    for header in read.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| httparse::Error::HeaderName)?;
        let at = header.value.as_ptr() as usize - begin;
        let value = head.slice(at..at + header.value.len());
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| Malformed::Header(name.clone()))?;
        headers.append(name, value);
    }
    bytes.advance(length);
    Ok(Some(response.into_parts().0))
}

/// An answer's body, as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    next: Next,
    /// Whether another answer can follow on this connection.
    goes_on: bool,
}

/// What of a body comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// So many bytes, and nothing else.
    Bytes(u64),
    /// How long the next part is.
    Size,
    /// What is left of a part.
    Part(u64),
    /// The end of a line behind a part.
    PartEnd,
    /// Lines behind the last part.
    Trailers,
    /// Everything until the connection is closed.
    All,
    /// Nothing.
    Nothing,
}

impl Body {
    fn of(head: &Parts) -> Result<Self, Malformed> {
        let (mut closes, mut chunked, mut length) = (false, None, None);
        for (name, value) in &head.headers {
            match *name {
                CONNECTION => closes |= names(value, "close"),
                // Of several, no more than one can be the last.
                TRANSFER_ENCODING => {
                    chunked = Some(chunked.is_none() && value.as_bytes().eq_ignore_ascii_case(b"chunked"));
                }
                CONTENT_LENGTH if length.is_some_and(|other| other != value) => length = Some(&NO_LENGTH),
                CONTENT_LENGTH => length = Some(value),
                _ => {}
            }
        }
        let goes_on = head.version == Version::HTTP_11 && !closes;
        if matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok(Self { next: Next::Nothing, goes_on });
        }
        match (chunked, length) {
            (Some(false), _) => Err(Malformed::Coding),
            // Who says both may mean something else than we read.
            (Some(true), length) => Ok(Self { next: Next::Size, goes_on: goes_on && length.is_none() }),
            (None, None) => Ok(Self { next: Next::All, goes_on: false }),
            (None, Some(length)) => {
                let digits = length.to_str().ok().filter(|text| text.bytes().all(|digit| digit.is_ascii_digit()));
                let length = digits.and_then(|digits| digits.parse().ok()).ok_or(Malformed::Length)?;
                Ok(Self { next: if length == 0 { Next::Nothing } else { Next::Bytes(length) }, goes_on })
            }
        }
    }

    /// Its end has been read.
    pub fn is_over(&self) -> bool {
        self.next == Next::Nothing
    }

    /// Its end has been read, and the connection stays for the next request.
    pub fn is_followed(&self) -> bool {
        self.is_over() && self.goes_on
    }

    /// The connection was closed: whether that is the body's end.
    pub fn ends_here(&mut self) -> bool {
        if self.next == Next::All {
            self.next = Next::Nothing;
        }
        self.is_over()
    }

    /// Its next bytes, taken from the front of what was read; `None` where more has to be read first, or it is over.
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        self.go_on(bytes)?;
        let left = match self.next {
            Next::Bytes(left) | Next::Part(left) => left,
            Next::All => u64::MAX,
            Next::Size | Next::PartEnd | Next::Trailers | Next::Nothing => return Ok(None),
        };
        let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if taken == 0 {
            return Ok(None);
        }
        let data = take(bytes, taken);
        let left = left - taken as u64;
        self.next = match self.next {
            Next::Bytes(_) if left == 0 => Next::Nothing,
            Next::Bytes(_) => Next::Bytes(left),
            Next::Part(_) if left == 0 => Next::PartEnd,
            Next::Part(_) => Next::Part(left),
            same => same,
        };
        // So that its end is known with its last bytes.
        self.go_on(bytes)?;
        Ok(Some(data))
    }

    /// Takes what is no part of the body itself.
    fn go_on(&mut self, bytes: &mut BytesMut) -> Result<(), Malformed> {
        loop {
            self.next = match self.next {
                Next::Size => match size(bytes)? {
                    Some(0) => Next::Trailers,
                    Some(size) => Next::Part(size),
                    None => return Ok(()),
                },
                Next::PartEnd => match bytes.get(..2) {
                    Some(b"\r\n") => {
                        bytes.advance(2);
                        Next::Size
                    }
                    Some(_) => return Err(Malformed::Part),
                    None => return Ok(()),
                },
                Next::Trailers => match trailers(bytes)? {
                    true => Next::Nothing,
                    false => return Ok(()),
                },
                Next::Bytes(_) | Next::Part(_) | Next::All | Next::Nothing => return Ok(()),
            };
        }
    }
}

/// So many bytes from the front. Few are copied, so that they do not keep all that was read.
fn take(bytes: &mut BytesMut, count: usize) -> Bytes {
    if count > COPIED_BYTES_MAX {
        return bytes.split_to(count).freeze();
    }
    let copied = Bytes::copy_from_slice(&bytes[..count]);
    bytes.advance(count);
    copied
}

/// Whether a header's value, a list, has this name.
fn names(value: &HeaderValue, name: &str) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}

/// The length of the next part; `None` as long as its line is not whole.
fn size(bytes: &mut BytesMut) -> Result<Option<u64>, Malformed> {
    // httparse takes no digit at all for none.
    if bytes.first().is_some_and(|first| !first.is_ascii_hexdigit()) {
        return Err(Malformed::Part);
    }
    match httparse::parse_chunk_size(bytes).map_err(|_| Malformed::Part)? {
        httparse::Status::Complete((line, size)) => {
            bytes.advance(line);
            Ok(Some(size))
        }
        httparse::Status::Partial if bytes.len() > SIZE_BYTES_MAX => Err(Malformed::Part),
        httparse::Status::Partial => Ok(None),
    }
}

/// Passes the lines behind the last part over; whether their end, an empty one, is there.
fn trailers(bytes: &mut BytesMut) -> Result<bool, Malformed> {
    let mut room = [httparse::EMPTY_HEADER; HEADERS_MAX];
    match httparse::parse_headers(bytes, &mut room)? {
        httparse::Status::Complete((length, _)) => {
            bytes.advance(length);
            Ok(true)
        }
        httparse::Status::Partial if bytes.len() > HEAD_BYTES_MAX => Err(Malformed::HeadTooLarge),
        httparse::Status::Partial => Ok(false),
    }
}
