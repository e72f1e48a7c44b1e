//! A request's deadline where no activator keeps it: 504, or the end of a stream with an error event.
//!
//! **Invariant:** past its deadline nothing is computed for a request: its handler or its stream is dropped.

use super::refusal::Refusal;
use axum::{
    body::{Body, BodyDataStream},
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream::{StreamExt, unfold};
use http::header;
use protocol::{
    ApiError,
    deadline::{TIMEOUT_DEFAULT, TIMEOUT_HEADER, timeout},
    sse,
};
use tokio::time::{Instant, timeout_at};

/// Lets a request through for as long as it may take.
pub async fn keep(request: Request, next: Next) -> Response {
    let asked = request.headers().get(TIMEOUT_HEADER).map(|value| timeout(value.as_bytes())).transpose();
    let deadline = match asked {
        Ok(asked) => Instant::now() + asked.unwrap_or(TIMEOUT_DEFAULT),
        Err(e) => return Refusal(e).into_response(),
    };
    match timeout_at(deadline, next.run(request)).await {
        Ok(response) if is_events(&response) => response.map(|body| until(body.into_data_stream(), deadline)),
        // It is there as a whole.
        Ok(response) => response,
        Err(_) => Refusal(ApiError::deadline_exceeded()).into_response(),
    }
}

fn is_events(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == sse::CONTENT_TYPE)
}

/// The events up to the deadline; each part is whole events.
fn until(events: BodyDataStream, deadline: Instant) -> Body {
    Body::from_stream(unfold(Some(events), move |events| async move {
        let mut events = events?;
        match timeout_at(deadline, events.next()).await {
            Ok(part) => part.map(|part| (part, Some(events))),
            Err(_) => Some((Ok(Bytes::from(sse::error_end(&ApiError::deadline_exceeded()))), None)),
        }
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::http::{App, Phase, router};
    use axum::{Router, body::Body, middleware::from_fn, routing::get};
    use futures_util::stream::{StreamExt, iter, pending};
    use http::Request;
    use http_body_util::BodyExt;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;
    use std::convert::Infallible;
    use tokio::sync::watch;

    async fn ask(router: Router, path: &str, milliseconds: &str) -> (u16, String) {
        let body = Body::from(r#"{"model":"m","prompt":"a"}"#);
        let method = if path == "/stream" { "GET" } else { "POST" };
        let request = Request::builder().method(method).uri(path).header("x-request-timeout-ms", milliseconds);
        let response = TowerToHyperService::new(router).call(request.body(body).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_request_that_waits_too_long_is_504_only_where_no_activator_answers_for_it() {
        // The model never comes.
        let (_starting, phase) = watch::channel(Phase::Starting);
        let (status, error) = ask(router(App::alone(phase.clone())), "/v1/completions", "50").await;
        assert!(status == 504 && error.contains("deadline_exceeded"), "{status} {error}");
        let (status, error) = ask(router(App::alone(phase.clone())), "/v1/completions", "soon").await;
        assert!(status == 400 && error.contains("X-Request-Timeout-Ms"), "{status} {error}");
        let behind = router(App::behind_activator(phase.clone()));
        tokio::select! {
            (status, error) = ask(behind, "/v1/completions", "50") => panic!("the activator ends it: {status} {error}"),
            (status, _) = ask(router(App::alone(phase)), "/v1/completions", "100") => assert_eq!(status, 504),
        }
    }

    #[tokio::test]
    async fn a_stream_past_its_deadline_ends_with_an_error_and_done() {
        let stream = || async {
            let begun = iter([Ok::<_, Infallible>("data: 1\n\n")]).chain(pending());
            ([("content-type", "text/event-stream")], Body::from_stream(begun))
        };
        let router = Router::new().route("/stream", get(stream)).layer(from_fn(super::keep));
        let (status, text) = ask(router, "/stream", "500").await;
        assert!(status == 200 && text.starts_with("data: 1\n\ndata: {\"error\":{"), "{text}");
        assert!(text.contains("deadline_exceeded") && text.ends_with("\n\ndata: [DONE]\n\n"), "{text}");
    }
}
