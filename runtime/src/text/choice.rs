//! One choice of an answer: the engine's events in, pieces of text out.
//!
//! **Invariant:** no piece leaves before the gate has passed. Dropping a choice cancels its sequence.

use super::{decoder::Decoder, meter::Meter};
use crate::engine::{Event, Gate, Logprobs, Output, Token};
use crate::tools::{CallDelta, Parser};
use protocol::{ApiError, ErrorKind, answer::FinishReason};
use std::time::Instant;

/// A part of one choice.
#[derive(Debug)]
pub struct Piece {
    /// Which choice.
    pub index: u32,
    /// What is new; may be empty.
    pub text: String,
    /// Parts of tool calls that are new.
    pub calls: Vec<CallDelta>,
    /// The tokens that are new; only where log probabilities are asked for.
    pub tokens: Vec<PieceToken>,
    /// In the last piece: why it ended, and the choice's numbers.
    pub last: Option<(FinishReason, Meter)>,
}

/// A generated token with its log probabilities.
#[derive(Debug)]
pub struct PieceToken {
    /// Its id.
    pub id: u32,
    /// Its own and the likeliest others'.
    pub logprobs: Logprobs,
    /// Where its text starts, in characters.
    pub offset: usize,
}

/// A choice under way.
pub struct Choice {
    index: u32,
    /// `None` once it is over.
    output: Option<Output>,
    gate: Gate,
    decoder: Decoder,
    meter: Meter,
    /// Reads calls out of the text, where there may be some.
    tools: Option<Parser>,
}

impl Choice {
    pub fn new(index: u32, output: Output, gate: Gate, decoder: Decoder, tools: Option<Parser>) -> Self {
        Self { index, output: Some(output), gate, decoder, meter: Meter::default(), tools }
    }

    /// The next piece that shows something; `None` after the last, and after an error.
    pub async fn next(&mut self) -> Option<Result<Piece, ApiError>> {
        loop {
            let output = self.output.as_mut()?;
            if let Err(what) = self.gate.passed().await {
                self.output = None;
                let message = format!("the model's snapshot is corrupt: {what}");
                return Some(Err(ApiError::new(ErrorKind::Unavailable, message)));
            }
            let event = output.next().await;
            match self.take(event) {
                Ok(None) => {}
                Ok(Some(piece)) => {
                    self.output = self.output.take().filter(|_| piece.last.is_none());
                    return Some(Ok(piece));
                }
                Err(e) => {
                    self.output = None;
                    return Some(Err(e));
                }
            }
        }
    }

    fn take(&mut self, event: Option<Event>) -> Result<Option<Piece>, ApiError> {
        match event {
            Some(Event::Prefilled(spent)) => {
                self.meter.prefill = spent;
                Ok(None)
            }
            Some(Event::Token(token)) => self.token(token),
            Some(Event::Finished(reason)) => {
                let rest = self.decoder.finish();
                let reason = if rest.stopped { FinishReason::Stop } else { reason };
                Ok(Some(self.piece(rest.text, Vec::new(), Some(reason))))
            }
            Some(Event::Failed(e)) => Err(e),
            None => Err(ApiError::new(
                ErrorKind::Internal,
                "the generation was cut short: its reader was too slow, or the engine failed",
            )),
        }
    }

    fn token(&mut self, token: Token) -> Result<Option<Piece>, ApiError> {
        self.meter.count(token.at, Instant::now());
        let offset = self.decoder.offset();
        let matched = self.decoder.push(token.id).map_err(|e| ApiError::new(ErrorKind::Internal, e.to_string()))?;
        let tokens: Vec<_> =
            token.logprobs.map(|logprobs| PieceToken { id: token.id, logprobs, offset }).into_iter().collect();
        let shows = matched.stopped || !matched.text.is_empty() || !tokens.is_empty();
        let piece = shows.then(|| self.piece(matched.text, tokens, matched.stopped.then_some(FinishReason::Stop)));
        // A piece of a call's frame says nothing yet.
        let says = |piece: &Piece| {
            piece.last.is_some() || !(piece.text.is_empty() && piece.calls.is_empty() && piece.tokens.is_empty())
        };
        Ok(piece.filter(says))
    }

    fn piece(&mut self, text: String, tokens: Vec<PieceToken>, reason: Option<FinishReason>) -> Piece {
        let (index, meter) = (self.index, self.meter);
        let Some(parser) = &mut self.tools else {
            return Piece { index, text, calls: Vec::new(), tokens, last: reason.map(|r| (r, meter)) };
        };
        let mut parsed = parser.push(&text);
        // No more than one call is wanted, and it is whole.
        let reason = reason.or(parser.is_over().then_some(FinishReason::ToolCalls));
        if reason.is_some() {
            let rest = parser.finish();
            parsed.content += &rest.content;
            parsed.calls.extend(rest.calls);
        }
        let reason = reason.map(|reason| match reason {
            FinishReason::Stop if parser.has_calls() => FinishReason::ToolCalls,
            other => other,
        });
        Piece { index, text: parsed.content, calls: parsed.calls, tokens, last: reason.map(|r| (r, meter)) }
    }
}
