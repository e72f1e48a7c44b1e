//! One choice of an answer: the engine's events in, pieces of text out.
//!
//! **Invariant:** no piece leaves before the gate has passed. Dropping a choice cancels its sequence.

use super::{decoder::Decoder, meter::Meter, stop::Matched};
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
    /// Tokens that were used since the last piece.
    pub used: Vec<u32>,
}

/// A token with its log probabilities.
#[derive(Debug)]
pub struct PieceToken {
    /// Its id.
    pub id: u32,
    /// Its own and the likeliest others'; none for the first of a prompt.
    pub logprobs: Option<Logprobs>,
    /// Where its text starts, in characters.
    pub offset: usize,
}

/// A choice under way.
pub struct Choice {
    index: u32,
    /// `None` once it is over.
    output: Option<Output>,
    gate: Gate,
    /// Elsewhere while slow guests are asked.
    decoder: Option<Decoder>,
    meter: Meter,
    /// Reads calls out of the text, where there may be some.
    tools: Option<Parser>,
    /// To be given back before anything else.
    echo: Option<Echo>,
    /// Tokens that are in no piece yet.
    used: Vec<u32>,
}

/// A prompt to be given back.
struct Echo {
    prompt: Vec<u32>,
    /// With its log probabilities.
    scored: bool,
}

impl Choice {
    pub fn new(index: u32, output: Output, gate: Gate, decoder: Decoder, tools: Option<Parser>) -> Self {
        Self {
            index,
            output: Some(output),
            gate,
            decoder: Some(decoder),
            meter: Meter::default(),
            tools,
            echo: None,
            used: Vec::new(),
        }
    }

    /// Goes on behind these tokens, of which all that they show was shown before; so was `prompt`, where it is given back.
    ///
    /// # Errors
    /// They are no tokens of this tokenizer; or a guest refuses their text.
    pub fn behind(mut self, prompt: Option<&[u32]>, tokens: &[u32]) -> Result<Self, ApiError> {
        for &id in prompt.unwrap_or_default() {
            self.decoder().echo(id)?;
        }
        for &id in tokens {
            self.meter.tokens += 1;
            let shown = self.decoder().push(id)?;
            self.tools.iter_mut().for_each(|tools| drop(tools.push(&shown.text)));
        }
        Ok(self)
    }

    /// Gives the prompt back before anything else, with log probabilities where `scored`.
    pub fn with_prompt(self, prompt: Vec<u32>, scored: bool) -> Self {
        Self { echo: Some(Echo { prompt, scored }), ..self }
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
            match self.take(event).await {
                Ok(None) => {}
                Ok(Some(mut piece)) => {
                    if let Some((_, meter)) = &mut piece.last {
                        meter.said = self.said(meter.tokens).await;
                    }
                    piece.used = std::mem::take(&mut self.used);
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

    /// Tokens of what is shown, where guests are asked: as the model said them, where it is what the model said.
    async fn said(&mut self, tokens: u32) -> Option<u32> {
        let (shown, is_as_said) = self.decoder().shown()?;
        if is_as_said {
            return Some(tokens);
        }
        let shown = shown.to_owned();
        let tokenizer = self.decoder().tokenizer().clone();
        // A long text takes a while.
        let counted = tokio::task::spawn_blocking(move || tokenizer.encode(&shown, false)).await;
        Some(counted.ok().and_then(Result::ok).map_or(tokens, |ids| ids.len() as u32))
    }

    async fn take(&mut self, event: Option<Event>) -> Result<Option<Piece>, ApiError> {
        match event {
            Some(Event::Prefilled(spent)) => {
                self.meter.prefill = spent;
                let echo = self.echo.take_if(|echo| !echo.scored);
                echo.map(|echo| self.echo(echo.prompt, None)).transpose()
            }
            Some(Event::Scored(scores)) => {
                let echo = self.echo.take();
                echo.map(|echo| self.echo(echo.prompt, Some(scores))).transpose()
            }
            Some(Event::Token(token)) => self.token(token).await,
            Some(Event::Finished(reason)) => {
                let rest = self.decode(Decoder::finish).await?;
                let reason = if rest.stopped { FinishReason::Stop } else { reason };
                Ok(Some(self.piece(rest.text, Vec::new(), Some(reason))))
            }
            Some(Event::Failed(e)) => Err(e),
            None if self.output.as_ref().is_some_and(Output::is_interrupted) => {
                Err(ApiError::new(ErrorKind::Interrupted, "the process that computed this was told to end"))
            }
            None => Err(ApiError::new(
                ErrorKind::Internal,
                "the generation was cut short: its reader was too slow, or the engine failed",
            )),
        }
    }

    /// The prompt as the first piece; with its tokens where there are `scores`, which are of all but the first.
    fn echo(&mut self, prompt: Vec<u32>, scores: Option<Vec<Logprobs>>) -> Result<Piece, ApiError> {
        let mut scores = scores.map(|scores| std::iter::once(None).chain(scores.into_iter().map(Some)));
        let (mut text, mut tokens) = (String::new(), Vec::new());
        for id in prompt {
            let offset = self.decoder().offset();
            text += &self.decoder().echo(id)?;
            let logprobs = scores.as_mut().map(|scores| scores.next().flatten());
            tokens.extend(logprobs.map(|logprobs| PieceToken { id, logprobs, offset }));
        }
        Ok(self.piece(text, tokens, None))
    }

    async fn token(&mut self, token: Token) -> Result<Option<Piece>, ApiError> {
        self.meter.count(token.at, Instant::now());
        self.used.push(token.id);
        let offset = self.decoder().offset();
        let matched = self.decode(move |decoder| decoder.push(token.id)).await?;
        let tokens: Vec<_> = token
            .logprobs
            .map(|logprobs| PieceToken { id: token.id, logprobs: Some(logprobs), offset })
            .into_iter()
            .collect();
        let shows = matched.stopped || !matched.text.is_empty() || !tokens.is_empty();
        let piece = shows.then(|| self.piece(matched.text, tokens, matched.stopped.then_some(FinishReason::Stop)));
        // A piece of a call's frame says nothing yet.
        let says = |piece: &Piece| {
            piece.last.is_some() || !(piece.text.is_empty() && piece.calls.is_empty() && piece.tokens.is_empty())
        };
        Ok(piece.filter(says))
    }

    fn decoder(&mut self) -> &mut Decoder {
        self.decoder.as_mut().expect("it is back before anybody asks")
    }

    /// A step of the decoder: here, or where its guests are slow, on a thread of its own, so that nobody else waits for them.
    async fn decode(
        &mut self,
        step: impl FnOnce(&mut Decoder) -> Result<Matched, ApiError> + Send + 'static,
    ) -> Result<Matched, ApiError> {
        if !self.decoder().is_slow() {
            return step(self.decoder());
        }
        let mut decoder = self.decoder.take().expect("it is back before anybody asks");
        let work = move || {
            let matched = step(&mut decoder);
            (decoder, matched)
        };
        let panicked = |_| ApiError::new(ErrorKind::Internal, "decoding failed");
        let (decoder, matched) = tokio::task::spawn_blocking(work).await.map_err(panicked)?;
        self.decoder = Some(decoder);
        matched
    }

    fn piece(&mut self, text: String, tokens: Vec<PieceToken>, reason: Option<FinishReason>) -> Piece {
        let (index, meter) = (self.index, self.meter);
        let Some(parser) = &mut self.tools else {
            return Piece {
                index,
                text,
                calls: Vec::new(),
                tokens,
                last: reason.map(|r| (r, meter)),
                used: Vec::new(),
            };
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
        let last = reason.map(|r| (r, meter));
        Piece { index, text: parsed.content, calls: parsed.calls, tokens, last, used: Vec::new() }
    }
}
