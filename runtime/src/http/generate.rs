//! Chat and text completions: request → choices → a stream or a whole answer.

use super::{
    App, body,
    refusal::Refusal,
    routes::{blocking, tokenizing},
    shape::Shape,
    stream, whole,
};
use crate::{
    engine::Scope,
    guests::{self, Outcome, Session, Shared},
    service::{Begun, Service},
    text::{Choice, Meter, Piece, StopMatcher, Totals},
    tools::Reading,
};
use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use futures_util::stream::{BoxStream, StreamExt, select_all, unfold};
use http::{HeaderMap, HeaderValue, Request};
use protocol::{
    ApiError, Constraint, ErrorKind, Generate,
    answer::FinishReason,
    parse_chat, parse_completion,
    resume::{ANSWER_HEADER, AnswerKey, GUESTS_HEADER, Trail},
    steps::TRACED_HEADER,
    timings::{SCOPE_HEADER, SEED_HEADER, WAKE_HEADER, Wake},
    tools::Tools,
};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The pieces of all choices as they come. Dropping it cancels them.
pub type Pieces = BoxStream<'static, Result<Piece, ApiError>>;

pub async fn chat(State(app): State<App>, request: Request<Body>) -> Response {
    let mut of = None;
    let answered = answer_chat(&app, request, &mut of).await.into_response();
    through(&app, of, answered)
}

/// `of`: the model that it turns out to be of.
async fn answer_chat(app: &App, request: Request<Body>, of: &mut Option<Arc<Service>>) -> Result<Response, Refusal> {
    let (arrived, wake, scope) = (Instant::now(), wake(app, request.headers()), scope(app, request.headers()));
    let (seed, traced) = (seed(app, request.headers()), traced(app, request.headers()));
    let key = key(app, request.headers());
    let mut body = body::read(app, request).await?;
    let begun = Begun { key, trail: std::mem::take(&mut body.trail) };
    let mut request = parse_chat(&body.bytes)?;
    request.generate.seed = request.generate.seed.or(seed);
    let service = app.model(&request.generate.model).await?;
    *of = Some(service.clone());
    check_identity(&service, &begun.trail)?;
    let tools = request.tools.take();
    let (asked, mut generate) = (service.clone(), request.generate);
    let (mut messages, add) = (request.messages, request.add_generation_prompt);
    guests::check(&service.guests, &generate, tools.is_some())?;
    let (scope_of_guests, metadata) = seen(&service, scope, &body);
    let now = begun.key.map_or_else(SystemTime::now, |key| UNIX_EPOCH + Duration::from_secs(key.created));
    let render = move || {
        let mut session = asked.guests.begin(scope_of_guests);
        if let Outcome::Answer(text) = guests::chat(&mut session, &mut messages, &mut generate, metadata)? {
            return Ok(Rendered::Answer(text, session, generate));
        }
        let reading = match &tools {
            Some(tools) => calls(&asked, tools, &mut generate)?,
            None => None,
        };
        // A template writes its own special tokens.
        let text = asked.render(&messages, tools.as_ref(), add, now)?;
        let prompt = asked.encode_for_model("messages", &text, false)?;
        Ok(Rendered::Prompt(reading, prompt, session, generate))
    };
    let origin = |tools| Origin { wake, arrived, scope, chat: true, tools, traced, begun };
    match tokenizing(app, &body, render).await? {
        Rendered::Prompt(reading, prompt, session, generate) => {
            answer(app, service, generate, vec![(prompt, session)], origin(reading)).await
        }
        Rendered::Answer(text, session, generate) => {
            answer_with(app, service, generate, text, session, origin(None)).await
        }
    }
}

/// What a chat becomes.
enum Rendered {
    /// To be generated behind.
    Prompt(Option<Reading>, Vec<u32>, Session, Generate),
    /// A guest has answered it.
    Answer(String, Session, Generate),
}

/// Whose a request is and what else it says, where guests want to see it.
fn seen(service: &Service, scope: Scope, body: &body::Read) -> (guests::Scope, Option<Vec<(String, String)>>) {
    let metadata = service.guests.hooks().request.then(|| guests::metadata(&body.bytes));
    (guests::Scope(scope.0), metadata)
}

/// What calls to look for in the answer. One that must call has their grammar for its form; one that has another form cannot call.
fn calls(service: &Service, tools: &Tools, generate: &mut Generate) -> Result<Option<Reading>, ApiError> {
    let format = service.tool_format()?;
    if generate.constraint.is_some() {
        return Ok(None);
    }
    if tools.required {
        let form = format.grammar(tools, &service.tokenizer);
        generate.constraint = Some(Constraint { field: "tools".into(), form });
    }
    Ok(Some(Reading::new(format, tools)))
}

pub async fn completion(State(app): State<App>, request: Request<Body>) -> Response {
    let mut of = None;
    let answered = answer_completion(&app, request, &mut of).await.into_response();
    through(&app, of, answered)
}

/// `of`: the model that it turns out to be of.
async fn answer_completion(
    app: &App,
    request: Request<Body>,
    of: &mut Option<Arc<Service>>,
) -> Result<Response, Refusal> {
    let (arrived, wake, scope) = (Instant::now(), wake(app, request.headers()), scope(app, request.headers()));
    let (seed, traced) = (seed(app, request.headers()), traced(app, request.headers()));
    let key = key(app, request.headers());
    let mut body = body::read(app, request).await?;
    let begun = Begun { key, trail: std::mem::take(&mut body.trail) };
    let mut request = parse_completion(&body.bytes)?;
    request.generate.seed = request.generate.seed.or(seed);
    let service = app.model(&request.generate.model).await?;
    *of = Some(service.clone());
    check_identity(&service, &begun.trail)?;
    let (words, mut prompts, mut generate) = (service.clone(), request.prompts, request.generate);
    guests::check(&service.guests, &generate, false)?;
    let (scope_of_guests, metadata) = seen(&service, scope, &body);
    if service.guests.hooks().request && prompts.len() > 1 {
        return Err(ApiError::field("prompt", "must be one: a guest of this model sees requests one by one").into());
    }
    let tokenize = move || {
        let mut sessions: Vec<Session> = prompts.iter().map(|_| words.guests.begin(scope_of_guests)).collect();
        if let ([prompt], [session]) = (&mut prompts[..], &mut sessions[..])
            && let Outcome::Answer(text) = guests::completion(session, &words, prompt, &mut generate, metadata)?
        {
            return Ok((Err(text), sessions, generate));
        }
        let prompts: Result<Vec<Vec<u32>>, ApiError> = match prompts.len() {
            1 => prompts.into_iter().map(|prompt| words.prompt("prompt", prompt)).collect(),
            _ => {
                let numbered = (0..).zip(prompts);
                numbered.map(|(i, prompt): (usize, _)| words.prompt(&format!("prompt[{i}]"), prompt)).collect()
            }
        };
        Ok((Ok(prompts?), sessions, generate))
    };
    let (prompts, mut sessions, generate) = tokenizing(app, &body, tokenize).await?;
    let origin = Origin { wake, arrived, scope, chat: false, tools: None, traced, begun };
    match (prompts, sessions.pop()) {
        (Err(text), Some(session)) => answer_with(app, service, generate, text, session, origin).await,
        (prompts, last) => {
            let prompts = prompts.unwrap_or_default().into_iter().zip(sessions.into_iter().chain(last));
            answer(app, service, generate, prompts.collect(), origin).await
        }
    }
}

/// Where a request came in and what it has been through.
struct Origin {
    wake: Wake,
    arrived: Instant,
    scope: Scope,
    chat: bool,
    /// How calls are written, where there may be some.
    tools: Option<Reading>,
    /// A trace is made of it.
    traced: bool,
    begun: Begun,
}

async fn answer(
    app: &App,
    service: Arc<Service>,
    generate: Generate,
    prompts: Vec<(Vec<u32>, Session)>,
    origin: Origin,
) -> Result<Response, Refusal> {
    let (prompts, sessions): (Vec<Vec<u32>>, Vec<Session>) = prompts.into_iter().unzip();
    let guests = of_choices(&service, sessions, generate.n, origin.scope);
    let begun = origin.begun;
    let prompt_tokens = prompts.iter().map(Vec::len).sum::<usize>() as u32;
    let choices_in_all = prompts.len() * generate.n as usize;
    let (starting, asked, going_on, theirs) = (service.clone(), generate.clone(), begun.clone(), guests.clone());
    let start = move || {
        let (tools, completes) = (origin.tools.as_ref(), !origin.chat);
        starting.start(&asked, tools, origin.scope, completes, (prompts, &theirs), &going_on)
    };
    let choices = if generate.constraint.is_some() {
        // A form has to be understood first, which can take a while, and goes on where the client leaves.
        let turn = app.forms.clone().acquire_owned().await.expect("never closed");
        let work = move || {
            let _turn = turn;
            start()
        };
        blocking(work).await?
    } else if !begun.trail.choices.is_empty() {
        // Every token that was seen is followed again.
        blocking(start).await?
    } else {
        start()?
    };
    let mut totals = Totals::new(origin.wake, origin.arrived, prompt_tokens).behind(&begun.trail);
    if origin.traced {
        totals = totals.traced(Instant::now());
    }
    add_past(&mut totals, &begun.trail);
    let shape = Shape::new(&service, &generate, origin.chat, choices_in_all, begun.key);
    respond(app, &service, &generate, &guests, (pieces(choices), shape, totals), &begun).await
}

/// An answer that a guest gave in place of the model: its text goes the way of any other, and its tokens are counted as any other's.
async fn answer_with(
    app: &App,
    service: Arc<Service>,
    generate: Generate,
    text: String,
    session: Session,
    origin: Origin,
) -> Result<Response, Refusal> {
    let guests = of_choices(&service, vec![session], generate.n, origin.scope);
    let (first, stops) = (guests.first().cloned(), generate.stop.clone());
    let words = service.tokenizer.clone();
    let counting = move || {
        let text = said(first, &text, stops)?;
        let tokens = words.encode(&text, false).map_or(0, |ids| ids.len() as u32);
        Ok((text, tokens))
    };
    let (text, tokens) = blocking(counting).await?;
    let shape = Shape::new(&service, &generate, origin.chat, generate.n as usize, origin.begun.key);
    let mut totals = Totals::new(origin.wake, origin.arrived, 0).behind(&origin.begun.trail);
    add_past(&mut totals, &origin.begun.trail);
    let piece = |index| {
        let last = Some((FinishReason::Stop, Meter { said: Some(tokens), ..Meter::default() }));
        Piece { index, text: text.clone(), calls: Vec::new(), tokens: Vec::new(), last, used: Vec::new() }
    };
    // One that was seen before is over.
    let over = |index: &u32| origin.begun.trail.past(*index).is_some_and(|past| past.ended);
    let pieces: Vec<_> = (0..generate.n).filter(|index| !over(index)).map(|index| Ok(piece(index))).collect();
    let pieces = futures_util::stream::iter(pieces).boxed();
    respond(app, &service, &generate, &guests, (pieces, shape, totals), &origin.begun).await
}

/// As a stream or as a whole, as asked.
async fn respond(
    app: &App,
    service: &Service,
    generate: &Generate,
    guests: &[Shared],
    (pieces, shape, totals): (Pieces, Shape, Totals),
    begun: &Begun,
) -> Result<Response, Refusal> {
    if generate.stream {
        return Ok(stream::respond(pieces, shape, totals, begun, &identity(service)).await?);
    }
    let seeing = (seeing(service, guests), &service.tokenizer);
    Ok(whole::respond(pieces, shape, totals, seeing, app.behind_activator).await?)
}

/// Choices that were over before.
fn add_past(totals: &mut Totals, trail: &Trail) {
    let over = trail.choices.iter().filter(|past| past.ended);
    over.for_each(|past| totals.add(&Meter { tokens: past.tokens.len() as u32, said: past.said, ..Meter::default() }));
}

/// A guest's answer as a client is to see it: through all guests, and cut at a stop string.
fn said(guests: Option<Shared>, text: &str, stops: Vec<String>) -> Result<String, ApiError> {
    let edited = match guests {
        Some(guests) => guests.with(|session| session.text(text, true))?.text,
        None => text.to_owned(),
    };
    let mut stops = StopMatcher::new(stops);
    let mut matched = stops.push(&edited);
    if !matched.stopped {
        matched.text += &stops.finish();
    }
    Ok(matched.text)
}

/// Guests for each choice: the first of a prompt has those that saw the request, others have theirs anew.
fn of_choices(service: &Service, sessions: Vec<Session>, n: u32, scope: Scope) -> Vec<Shared> {
    if service.guests.is_empty() {
        return Vec::new();
    }
    let anew = || service.guests.begin(guests::Scope(scope.0));
    let of_prompt = |session| std::iter::once(session).chain(std::iter::repeat_with(anew)).take(n as usize);
    sessions.into_iter().flat_map(of_prompt).map(Shared::new).collect()
}

/// Those guests that want to see whole answers.
fn seeing<'a>(service: &Service, guests: &'a [Shared]) -> &'a [Shared] {
    if service.guests.hooks().response { guests } else { &[] }
}

/// Says which guests an answer, or a refusal, went through, where an activator wants to know.
fn through(app: &App, of: Option<Arc<Service>>, mut answered: Response) -> Response {
    if let Some(service) = of.filter(|service| app.behind_activator && !service.guests.is_empty()) {
        let digests: Vec<&str> = service.guests.plugins().iter().map(|plugin| plugin.digest()).collect();
        let digests = HeaderValue::try_from(digests.join(",")).expect("digests are visible ASCII");
        answered.headers_mut().insert(GUESTS_HEADER, digests);
    }
    answered
}

/// An answer goes on only where what it depends on is what it was; no guest sees it otherwise.
fn check_identity(service: &Service, trail: &Trail) -> Result<(), ApiError> {
    if trail.identity.is_empty() || trail.identity == service.identity() {
        return Ok(());
    }
    let message = "The answer cannot go on: the model, its guests, or the processor it runs on, are others than those that began it.";
    Err(ApiError::new(ErrorKind::Unavailable, message))
}

/// What an answer depends on; nothing that could be had again, where guests cannot see it again from the beginning.
fn identity(service: &Service) -> String {
    if service.guests.is_replayable() { service.identity() } else { String::new() }
}

fn pieces(choices: Vec<Choice>) -> Pieces {
    let each = |choice| unfold(choice, |mut c: Choice| async move { c.next().await.map(|piece| (piece, c)) }).boxed();
    select_all(choices.into_iter().map(each)).boxed()
}

/// What the activator says; nothing, where there is none or it says nonsense.
fn wake(app: &App, headers: &HeaderMap) -> Wake {
    let header = headers.get(WAKE_HEADER).filter(|_| app.behind_activator);
    header.and_then(|v| serde_json::from_slice(v.as_bytes()).ok()).unwrap_or_default()
}

/// Who the answer is, as the activator says.
fn key(app: &App, headers: &HeaderMap) -> Option<AnswerKey> {
    headers.get(ANSWER_HEADER).filter(|_| app.behind_activator)?.to_str().ok()?.parse().ok()
}

/// The generator's key that the activator gives a request without one.
fn seed(app: &App, headers: &HeaderMap) -> Option<u64> {
    headers.get(SEED_HEADER).filter(|_| app.behind_activator)?.to_str().ok()?.parse().ok()
}

/// Whether the activator makes a trace of the request.
fn traced(app: &App, headers: &HeaderMap) -> bool {
    app.behind_activator && headers.contains_key(TRACED_HEADER)
}

/// Whose keys and values the request may share, as the activator says; without tenants all requests are of one scope.
fn scope(app: &App, headers: &HeaderMap) -> Scope {
    let header = headers.get(SCOPE_HEADER).filter(|_| app.behind_activator);
    let id = header.and_then(|v| u128::from_str_radix(v.to_str().ok()?, 16).ok());
    Scope(id.unwrap_or_default())
}
