//! A request as a runtime is asked it, by HTTP/1.1 or by HTTP/2: the client's headers and ours, and a body whose parts are there already, so
//! that its length is known.

use std::{
    borrow::Cow,
    collections::VecDeque,
    convert::Infallible,
    fmt::{self, Write},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header::HOST};
use http_body::{Body, Frame, SizeHint};

use crate::headers;

/// HTTP/1.1 readers take no more than a hundred headers; of those, some are ours. HTTP/2 has no such number.
const HEADERS_MAX: usize = 80;

/// See the module. It is posted.
#[derive(Debug)]
pub struct Ask<'a> {
    /// To which path.
    pub path: &'static str,
    /// The client's headers.
    pub headers: Cow<'a, HeaderMap>,
    /// Ours, which the client's have none of.
    pub ours: Ours,
    /// One after the other.
    pub body: Vec<Bytes>,
}

/// What we say beside the client. All values lie in one piece of memory.
#[derive(Debug, Default)]
pub struct Ours {
    headers: Vec<(HeaderName, HeaderValue)>,
    text: BytesMut,
}

/// Room for what is said of most requests.
const OURS: (usize, usize) = (4, 256);

impl Ours {
    /// One more, of ASCII.
    pub fn say(&mut self, name: &HeaderName, value: fmt::Arguments<'_>) {
        if self.headers.is_empty() {
            self.headers.reserve(OURS.0);
            self.text.reserve(OURS.1);
        }
        self.text.write_fmt(value).expect("memory grows");
        let value = HeaderValue::from_maybe_shared(self.text.split().freeze());
        self.headers.push((name.clone(), value.expect("numbers and JSON of them are ASCII")));
    }
}

static LOCALHOST: HeaderValue = HeaderValue::from_static("localhost");

impl Ask<'_> {
    /// Whether HTTP/1.1 can say it.
    pub fn fits_http1(&self) -> bool {
        self.headers.len() + self.ours.headers.len() <= HEADERS_MAX
    }

    /// Bytes of the body.
    pub fn length(&self) -> u64 {
        self.body.iter().map(|part| part.len() as u64).sum()
    }

    /// Everything that HTTP/1.1 says, but for the body's length.
    pub fn headers(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let host = (!self.headers.contains_key(HOST)).then_some((&HOST, &LOCALHOST));
        host.into_iter().chain(self.headers.iter()).chain(self.ours.headers.iter().map(|(name, value)| (name, value)))
    }

    /// By HTTP/2.
    pub fn to_http2(&self) -> Request<Outgoing> {
        let authority = headers::authority(&self.headers);
        let target = Uri::builder().scheme("http").authority(authority).path_and_query(self.path).build();
        let parts = self.body.iter().filter(|part| !part.is_empty()).cloned();
        let mut request = Request::new(Outgoing(parts.collect()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target.expect("the authority and our paths are well-formed");
        *request.headers_mut() = HeaderMap::clone(&self.headers);
        request.headers_mut().extend(self.ours.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        request
    }
}

/// A request's body.
#[derive(Debug)]
pub struct Outgoing(VecDeque<Bytes>);

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|part| part.len() as u64).sum())
    }
}
