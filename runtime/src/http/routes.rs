//! The small paths: models, tokenizing, health, and what does not exist.

use super::{
    App, Phase,
    body::{self, Read},
    refusal::{Refusal, json_of},
};
use crate::service::Service;
use axum::{
    body::Body,
    extract::{Path, State},
    response::Response,
};
use http::{Request, StatusCode};
use protocol::{
    ApiError, ErrorKind, TokenizeInput, TokenizeRequest,
    answer::{ModelCard, ModelList},
    parse_detokenize, parse_tokenize,
    tokenize::{DetokenizeAnswer, TokenizeAnswer},
};
use std::{sync::Arc, time::SystemTime};

pub async fn models(State(app): State<App>) -> Result<Response, Refusal> {
    let service = app.service().await?;
    Ok(json_of(&ModelList::new(vec![ModelCard::new(&service.model, service.created)])))
}

pub async fn model(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let service = app.model(&id).await?;
    Ok(json_of(&ModelCard::new(&service.model, service.created)))
}

pub async fn tokenize(State(app): State<App>, request: Request<Body>) -> Result<Response, Refusal> {
    let body = body::read(&app, request).await?;
    let request = parse_tokenize(&body.bytes)?;
    let service = named(&app, request.model.as_deref()).await?;
    Ok(json_of(&tokenizing(&app, &body, move || tokens(&service, &request)).await?))
}

pub async fn detokenize(State(app): State<App>, request: Request<Body>) -> Result<Response, Refusal> {
    let body = body::read(&app, request).await?;
    let request = parse_detokenize(&body.bytes)?;
    let service = named(&app, request.model.as_deref()).await?;
    let decode = move || {
        service.check_ids("tokens", &request.tokens)?;
        let text = service.tokenizer.decode(&request.tokens, false);
        text.map_err(|e| ApiError::new(ErrorKind::Internal, e.to_string()))
    };
    Ok(json_of(&DetokenizeAnswer { prompt: tokenizing(&app, &body, decode).await? }))
}

fn tokens(service: &Service, request: &TokenizeRequest) -> Result<TokenizeAnswer, ApiError> {
    let tokens = match &request.input {
        TokenizeInput::Prompt(text) => service.encode(text, request.add_special_tokens)?,
        TokenizeInput::Messages { messages, add_generation_prompt } => service.encode(
            &service.render(messages, None, *add_generation_prompt, SystemTime::now())?,
            request.add_special_tokens,
        )?,
    };
    let text = |id: &u32| String::from_utf8_lossy(&service.tokenizer.token_bytes(*id)).into_owned();
    let token_strs = request.return_token_strs.then(|| tokens.iter().map(text).collect());
    Ok(TokenizeAnswer { count: tokens.len(), max_model_len: service.context, tokens, token_strs })
}

async fn named(app: &App, model: Option<&str>) -> Result<Arc<Service>, ApiError> {
    match model {
        Some(name) => app.model(name).await,
        None => app.service().await,
    }
}

/// Work that takes long enough to be in the way of other requests.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let panicked = |_| ApiError::new(ErrorKind::Internal, "tokenizing failed");
    tokio::task::spawn_blocking(work).await.map_err(panicked)?
}

/// The same with the body's text, of which not too much is worked on at once: tokenizing takes many times a text's memory.
pub async fn tokenizing<T: Send + 'static>(
    app: &App,
    body: &Read,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let share = app.tokenizing.share(body.bytes.len()).await;
    blocking(move || {
        let _share = share;
        work()
    })
    .await
}

pub async fn livez(State(app): State<App>) -> StatusCode {
    let failed = matches!(*app.phase.borrow(), Phase::Failed(_));
    if failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}

pub async fn readyz(State(app): State<App>) -> StatusCode {
    let ready = matches!(*app.phase.borrow(), Phase::Ready(_));
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

pub async fn not_found(request: Request<Body>) -> Refusal {
    let message = format!("Unknown path: {} {}", request.method(), request.uri().path());
    Refusal(ApiError::new(ErrorKind::NotFound, message))
}

pub async fn method_not_allowed(request: Request<Body>) -> Refusal {
    let message = format!("{} is not allowed on {}", request.method(), request.uri().path());
    Refusal(ApiError::new(ErrorKind::MethodNotAllowed, message))
}
