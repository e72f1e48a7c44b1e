//! A request as a runtime is asked it, by HTTP/1.1 or by HTTP/2: the client's headers and ours, and a body whose parts are there already, so
//! that its length is known.

use std::{
    borrow::Cow,
    collections::VecDeque,
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header::HOST};
use http_body::{Body, Frame, SizeHint};
use protocol::{digits, resume::AnswerKey, timings::Wake};

use crate::{headers, http1::Head};

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
    /// What comes before the client's body.
    pub in_front: Option<Bytes>,
    /// The client's body.
    pub body: &'a Bytes,
}

/// What we say beside the client.
#[derive(Clone, Copy, Debug)]
pub struct Ours {
    /// What the request has been through.
    pub wake: Wake,
    /// Who its answer is.
    pub key: AnswerKey,
    /// Whose keys and values it may share.
    pub scope: Option<u128>,
    /// Of its generator, where the client names none.
    pub seed: Option<u64>,
}

impl Ours {
    /// As headers.
    fn each(&self, in_front: Option<&Bytes>, mut say: impl FnMut(&HeaderName, Value)) {
        say(&headers::WAKE, Value::Wake(self.wake));
        say(&headers::ANSWER, Value::Key(self.key));
        in_front.iter().for_each(|in_front| say(&headers::RESUME, Value::Number(in_front.len() as u64)));
        self.scope.iter().for_each(|scope| say(&headers::SCOPE, Value::Scope(*scope)));
        self.seed.iter().for_each(|seed| say(&headers::SEED, Value::Number(*seed)));
    }
}

/// What a header of ours says, in ASCII.
#[derive(Clone, Copy)]
enum Value {
    Wake(Wake),
    Key(AnswerKey),
    Scope(u128),
    Number(u64),
}

impl Value {
    fn write(self, out: &mut impl fmt::Write) -> fmt::Result {
        match self {
            Self::Wake(wake) => wake.write(out),
            Self::Key(key) => key.write(out),
            Self::Scope(scope) => digits::hexadecimal(scope, out),
            Self::Number(number) => digits::decimal(number, out),
        }
    }
}

/// As many headers as [`Ours::each`] says at most.
const OURS: usize = 5;

impl Ask<'_> {
    /// Whether HTTP/1.1 can say it.
    pub fn fits_http1(&self) -> bool {
        self.headers.len() + OURS <= HEADERS_MAX
    }

    /// Its body: what there is of it, one after the other.
    pub fn parts(&self) -> impl Iterator<Item = &Bytes> {
        self.in_front.iter().chain([self.body]).filter(|part| !part.is_empty())
    }

    /// Bytes of the body.
    pub fn length(&self) -> u64 {
        self.parts().map(|part| part.len() as u64).sum()
    }

    /// Its head by HTTP/1.1.
    pub fn write_head(&self, out: &mut BytesMut) {
        let mut head = Head::begin(out, "POST", self.path);
        if !self.headers.contains_key(HOST) {
            head.say(&HOST, b"localhost");
        }
        self.headers.iter().for_each(|(name, value)| head.say(name, value.as_bytes()));
        self.ours.each(self.in_front.as_ref(), |name, value| head.tell(name, |out| value.write(out)));
        head.end(self.length());
    }

    /// By HTTP/2.
    pub fn to_http2(&self) -> Request<Outgoing> {
        let authority = headers::authority(&self.headers);
        let target = Uri::builder().scheme("http").authority(authority).path_and_query(self.path).build();
        let mut request = Request::new(Outgoing(self.parts().cloned().collect()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target.expect("the authority and our paths are well-formed");
        *request.headers_mut() = HeaderMap::clone(&self.headers);
        self.ours.each(self.in_front.as_ref(), |name, value| {
            let mut text = String::new();
            value.write(&mut text).expect("memory grows");
            let value = HeaderValue::try_from(text).expect("numbers and JSON of them are ASCII");
            request.headers_mut().insert(name, value);
        });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_headers_are_ours_as_are_counted() {
        let key = AnswerKey { id: 1, created: 2 };
        let ours = Ours { wake: Wake::default(), key, scope: Some(3), seed: Some(4) };
        let mut said = Vec::new();
        ours.each(Some(&Bytes::from_static(b"{}")), |name, value| {
            let mut text = String::new();
            assert!(value.write(&mut text).is_ok());
            said.push((name.as_str().to_owned(), text));
        });
        assert_eq!(said.len(), OURS, "{said:?}");
    }
}
