//! An answer as server-sent events.

use super::{generate::Pieces, refusal::used_header, shape::Shape};
use crate::{
    service::Begun,
    text::{Piece, Totals},
};
use axum::{body::Body, response::Response};
use futures_util::stream::{StreamExt, once, unfold};
use http::{HeaderValue, header};
use protocol::{
    ApiError, ErrorKind,
    resume::{BROKEN, IDENTITY_HEADER, INTERRUPTED, mark, steps_mark, usage_mark},
    sse,
    usage::{USED_HEADER, Used},
};
use std::{convert::Infallible, future::ready};

/// Headers leave with the first piece, so that what fails before it has its own status. An answer that an activator knows has marks.
pub async fn respond(
    mut pieces: Pieces,
    shape: Shape,
    totals: Totals,
    begun: &Begun,
    identity: &str,
) -> Result<Response, ApiError> {
    let first = pieces.next().await.transpose()?;
    let all = once(ready(first.map(Ok))).filter_map(ready).chain(pieces);
    let trail = &begun.trail;
    let seen = (0..shape.choices as u32).map(|index| trail.past(index).is_some()).collect();
    let over = trail.choices.iter().filter(|past| past.ended).count();
    let used = Used { prompt: totals.usage().prompt_tokens, completion: 0 };
    let (marks, open) = (begun.key.is_some(), shape.choices.saturating_sub(over));
    let writer = Writer { open, begun: seen, shape, totals, marks, told_usage: trail.usage };
    let events = unfold(Some((all, writer)), |state| async {
        let (mut pieces, mut writer) = state?;
        let (text, over) = writer.write(pieces.next().await);
        Some((Ok::<_, Infallible>(text), (!over).then_some((pieces, writer))))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(sse::CONTENT_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Some(identity) = HeaderValue::from_str(identity).ok().filter(|_| marks) {
        headers.insert(IDENTITY_HEADER, identity);
        headers.insert(USED_HEADER, used_header(used));
    }
    Ok(response)
}

struct Writer {
    shape: Shape,
    totals: Totals,
    /// Choices that have not ended.
    open: usize,
    /// Per choice: its first chunk has left.
    begun: Vec<bool>,
    /// Events are marked.
    marks: bool,
    told_usage: bool,
}

impl Writer {
    /// The next text of the stream, and whether it is the last.
    fn write(&mut self, piece: Option<Result<Piece, ApiError>>) -> (String, bool) {
        match piece {
            Some(Ok(piece)) => self.piece(piece),
            Some(Err(e)) if e.kind == ErrorKind::Interrupted && self.marks => (INTERRUPTED.to_owned(), true),
            Some(Err(e)) if e.kind == ErrorKind::Broken && self.marks => (BROKEN.to_owned(), true),
            Some(Err(e)) => (sse::error_end(&e), true),
            // All was over when it was interrupted.
            None if self.open == 0 => (self.usage() + sse::DONE, true),
            None => (sse::DONE.to_owned(), true),
        }
    }

    fn piece(&mut self, piece: Piece) -> (String, bool) {
        if let Some((_, meter)) = &piece.last {
            self.totals.add(meter);
            self.open -= 1;
        }
        let over = self.open == 0;
        let first = !std::mem::replace(&mut self.begun[piece.index as usize], true);
        let last_chunk = over && !self.shape.include_usage;
        let mut text = match self.marks {
            true => mark(piece.index, &piece.used, piece.last.map(|(_, meter)| meter.said)),
            false => String::new(),
        };
        text += &self.shape.chunk(piece, first, last_chunk.then_some(&self.totals));
        if over {
            text += &self.usage();
            text += &self.steps();
            text += sse::DONE;
        }
        (text, over)
    }

    /// The event that tells it, where it is wanted and has not been told.
    fn usage(&self) -> String {
        if !self.shape.include_usage || self.told_usage {
            return String::new();
        }
        let mark = if self.marks { usage_mark() } else { String::new() };
        mark + &self.shape.usage_chunk(&self.totals)
    }

    /// The mark of the end, where a trace is made.
    fn steps(&self) -> String {
        let steps = self.totals.steps().filter(|_| self.marks);
        steps.map(|steps| steps_mark(&steps)).unwrap_or_default()
    }
}
