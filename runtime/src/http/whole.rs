//! An answer as one JSON object.

use super::{
    generate::Pieces,
    refusal::{json, used_by},
    routes::blocking,
    shape::{Gathered, Shape},
};
use crate::{
    guests::{self, Shared},
    text::Totals,
};
use axum::response::Response;
use futures_util::stream::StreamExt;
use http::{HeaderName, HeaderValue};
use models::Tokenizer;
use protocol::{ApiError, answer::FinishReason, steps::STEPS_HEADER, timings::Timings, usage::Used};
use std::sync::Arc;

/// Waits for all choices; the first that fails fails the whole. An activator is told what was used.
pub async fn respond(
    mut pieces: Pieces,
    shape: Shape,
    mut totals: Totals,
    (guests, words): (&[Shared], &Arc<Tokenizer>),
    behind_activator: bool,
) -> Result<Response, ApiError> {
    let mut gathered: Vec<Gathered> = std::iter::repeat_with(Gathered::default).take(shape.choices).collect();
    while let Some(piece) = pieces.next().await.transpose()? {
        let choice = &mut gathered[piece.index as usize];
        choice.text += &piece.text;
        choice.add_calls(piece.calls);
        choice.tokens.extend(piece.tokens);
        if let Some((reason, meter)) = piece.last {
            choice.finish = Some(reason);
            choice.counted = meter.counted();
            totals.add(&meter);
        }
    }
    for (choice, guests) in gathered.iter_mut().zip(guests) {
        let finish = choice.finish.unwrap_or(FinishReason::Stop);
        let (guests, text, used) = (guests.clone(), std::mem::take(&mut choice.text), seen(&totals));
        let (words, before) = (words.clone(), choice.counted);
        let edit = move || {
            let edited = guests::response(&guests, &text, finish, used)?;
            let count = |text: &String| words.encode(text, false).map_or(before, |ids| ids.len() as u32);
            let now = edited.as_ref().map_or(before, count);
            Ok((edited.unwrap_or(text), now))
        };
        let (text, now) = blocking(edit).await?;
        choice.text = text;
        totals.recount(before, now);
    }
    let mut response = json(shape.whole(gathered, &totals));
    if behind_activator {
        let usage = totals.usage();
        let used = Used { prompt: usage.prompt_tokens, completion: usage.completion_tokens };
        response = used_by(response, used);
    }
    if let Some(steps) = totals.steps() {
        let steps = HeaderValue::try_from(steps.to_string()).expect("numbers are visible ASCII");
        response.headers_mut().insert(STEPS_HEADER, steps);
    }
    response.headers_mut().insert(HeaderName::from_static("server-timing"), server_timing(&totals.timings()));
    Ok(response)
}

/// What was used, as guests see it.
fn seen(totals: &Totals) -> guests::Usage {
    let (usage, timings) = (totals.usage(), totals.timings());
    let micros = |milliseconds: f64| (milliseconds * 1e3) as u64;
    guests::Usage {
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        prefill_us: micros(timings.prompt_ms),
        decode_us: micros(timings.predicted_ms),
    }
}

fn server_timing(t: &Timings) -> HeaderValue {
    let spans = [
        ("held", t.wake.held_ms),
        ("launch", t.wake.launch_ms),
        ("restore", t.wake.restore_ms),
        ("prefill", t.prompt_ms),
        ("decode", t.predicted_ms),
        ("first-token", t.first_token_ms),
    ];
    let text = spans.map(|(name, ms)| format!("{name};dur={ms:.3}")).join(", ");
    HeaderValue::try_from(text).expect("names and numbers are visible ASCII")
}
