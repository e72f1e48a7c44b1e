//! An answer as server-sent events.

use super::{generate::Pieces, shape::Shape};
use crate::text::{Piece, Totals};
use axum::{body::Body, response::Response};
use futures_util::stream::{StreamExt, once, unfold};
use http::{HeaderValue, header};
use protocol::{ApiError, sse};
use std::{convert::Infallible, future::ready};

/// Headers leave with the first piece, so that what fails before it has its own status.
pub async fn respond(mut pieces: Pieces, shape: Shape, totals: Totals) -> Result<Response, ApiError> {
    let first = pieces.next().await.transpose()?;
    let all = once(ready(first.map(Ok))).filter_map(ready).chain(pieces);
    let writer = Writer { open: shape.choices, begun: vec![false; shape.choices], shape, totals };
    let events = unfold(Some((all, writer)), |state| async {
        let (mut pieces, mut writer) = state?;
        let (text, over) = writer.write(pieces.next().await);
        Some((Ok::<_, Infallible>(text), (!over).then_some((pieces, writer))))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(sse::CONTENT_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

struct Writer {
    shape: Shape,
    totals: Totals,
    /// Choices that have not ended.
    open: usize,
    /// Per choice: its first chunk has left.
    begun: Vec<bool>,
}

impl Writer {
    /// The next text of the stream, and whether it is the last.
    fn write(&mut self, piece: Option<Result<Piece, ApiError>>) -> (String, bool) {
        match piece {
            Some(Ok(piece)) => self.piece(piece),
            Some(Err(e)) => (sse::error_end(&e), true),
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
        let mut text = self.shape.chunk(piece, first, last_chunk.then_some(&self.totals));
        if over && self.shape.include_usage {
            text += &self.shape.usage_chunk(&self.totals);
        }
        if over {
            text += sse::DONE;
        }
        (text, over)
    }
}
