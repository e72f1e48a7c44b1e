//! An answer as one JSON object.

use super::{
    generate::Pieces,
    refusal::json,
    shape::{Gathered, Shape},
};
use crate::text::Totals;
use axum::response::Response;
use futures_util::stream::StreamExt;
use http::{HeaderName, HeaderValue};
use protocol::{ApiError, timings::Timings};

/// Waits for all choices; the first that fails fails the whole.
pub async fn respond(mut pieces: Pieces, shape: Shape, mut totals: Totals) -> Result<Response, ApiError> {
    let mut gathered: Vec<Gathered> = std::iter::repeat_with(Gathered::default).take(shape.choices).collect();
    while let Some(piece) = pieces.next().await.transpose()? {
        let choice = &mut gathered[piece.index as usize];
        choice.text += &piece.text;
        choice.add_calls(piece.calls);
        choice.tokens.extend(piece.tokens);
        if let Some((reason, meter)) = piece.last {
            choice.finish = Some(reason);
            totals.add(&meter);
        }
    }
    let mut response = json(shape.whole(gathered, &totals));
    response.headers_mut().insert(HeaderName::from_static("server-timing"), server_timing(&totals.timings()));
    Ok(response)
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
