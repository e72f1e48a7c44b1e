//! `/v1/embeddings`: texts → vectors.

use super::{
    App, body,
    refusal::{Refusal, json_of, used_by},
    routes::tokenizing,
};
use crate::service::{Service, refusal};
use axum::{body::Body, extract::State, response::Response};
use http::Request;
use protocol::{ApiError, EmbeddingAnswer, EmbeddingRequest, ErrorKind, Prompt, parse_embeddings, usage::Used};

pub async fn embeddings(State(app): State<App>, request: Request<Body>) -> Result<Response, Refusal> {
    let body = body::read(&app, request).await?;
    let request = parse_embeddings(&body.bytes)?;
    let service = app.model(&request.model).await?;
    request.check_dimensions(service.embedder()?.width)?;
    let (words, base64) = (service.clone(), request.base64);
    let sequences = tokenizing(&app, &body, move || sequences(&words, request)).await?;
    let tokens = sequences.iter().map(Vec::len).sum::<usize>() as u32;
    let vectors = service.embedder()?.submit(sequences).map_err(refusal)?;
    let broken = |_| ApiError::new(ErrorKind::Internal, "the encoder failed while computing");
    let vectors = vectors.await.map_err(broken)?;
    // No vector leaves before the snapshot is known to be sound.
    let corrupt = |what| ApiError::new(ErrorKind::Unavailable, format!("the model's snapshot is corrupt: {what}"));
    service.gate.clone().passed().await.map_err(corrupt)?;
    let answer = json_of(&EmbeddingAnswer::new(&service.model, &vectors, tokens, base64));
    Ok(if app.behind_activator { used_by(answer, Used { prompt: tokens, completion: 0 }) } else { answer })
}

fn sequences(service: &Service, request: EmbeddingRequest) -> Result<Vec<Vec<u32>>, ApiError> {
    let most = match request.truncate {
        Some(n) => usize::try_from(n).unwrap_or(service.context).min(service.context),
        None => usize::MAX,
    };
    let sequence = |(i, input): (usize, Prompt)| {
        let path = format!("input[{i}]");
        let ids = match input {
            Prompt::Text(text) => {
                // What is cut off anyway need not be encoded.
                let kept = if request.truncate.is_some() { service.text_bytes_max() } else { usize::MAX };
                let text = &text[..text.floor_char_boundary(kept)];
                cut(service, service.encode_for_model(&path, text, true)?, most)?
            }
            Prompt::Tokens(ids) => {
                service.check_ids(&path, &ids)?;
                ids.into_iter().take(most).collect()
            }
        };
        match ids.len() {
            0 => Err(ApiError::field(path, "has no tokens")),
            n if n > service.context => Err(ApiError::field(
                path,
                format_args!(
                    "has {n} tokens, but this model takes {} (truncate_prompt_tokens: -1 cuts what is longer)",
                    service.context
                ),
            )),
            _ => Ok(ids),
        }
    };
    request.inputs.into_iter().enumerate().map(sequence).collect()
}

/// Cuts the text's own tokens and leaves those that the tokenizer puts around it.
fn cut(service: &Service, ids: Vec<u32>, most: usize) -> Result<Vec<u32>, ApiError> {
    if ids.len() <= most {
        return Ok(ids);
    }
    let around = service.encode("", true)?;
    // What ends an empty text ends every text.
    let end = around.iter().rev().take(around.len() / 2).rev().copied();
    let kept = most.saturating_sub(around.len() / 2);
    Ok(ids.into_iter().take(kept).chain(end).take(most).collect())
}
