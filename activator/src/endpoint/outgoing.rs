//! A request's body: parts that are there already, so that their length is known.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// See the module.
#[derive(Debug)]
pub struct Outgoing(VecDeque<Bytes>);

impl Outgoing {
    /// One after the other. Empty ones are left out.
    pub fn new(parts: impl Iterator<Item = Bytes>) -> Self {
        Self(parts.filter(|part| !part.is_empty()).collect())
    }
}

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
