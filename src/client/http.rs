//! Requests to the server: a chat that streams, and JSON from the admin port.

use super::sse::Events;
use crate::exit::{Error, Result};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Bytes, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use protocol::timings::Timings;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::net::TcpStream;

/// Answers that are read as a whole are never larger.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What one streamed chat was like for the client.
#[derive(Clone, Debug)]
pub struct Chat {
    /// From before the connection was opened to the first piece of text.
    pub first_token: Duration,
    /// The server's own account.
    pub timings: Timings,
}

/// Asks `model` one question, greedily and without its prefix cache; every piece of the answer goes to `piece` as it comes.
pub async fn chat(
    api: SocketAddr,
    model: &str,
    question: &str,
    tokens_max: u32,
    piece: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Chat> {
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens_max,
        "temperature": 0,
        "cache_prompt": false,
        "stream": true,
    });
    let begun = Instant::now();
    let answer = send(api, Method::POST, "/v1/chat/completions", body.to_string()).await?;
    if answer.status() != StatusCode::OK {
        return Err(refusal(answer).await);
    }
    let mut reading = Reading { begun, first_token: None, timings: None };
    let mut events = Events::default();
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broke(api, &error))?;
        for data in frame.data_ref().map_or(Ok(Vec::new()), |bytes| events.push(bytes))? {
            reading.event(&data, piece)?;
        }
    }
    reading.end()
}

/// JSON from `path`.
pub async fn get(address: SocketAddr, path: &str) -> Result<Value> {
    let answer = send(address, Method::GET, path, String::new()).await?;
    if answer.status() != StatusCode::OK {
        return Err(refusal(answer).await);
    }
    let body = whole(answer).await?;
    serde_json::from_slice(&body).map_err(|error| Error::Data(format!("http://{address}{path} is no JSON: {error}")))
}

async fn send(address: SocketAddr, method: Method, path: &str, body: String) -> Result<Response<Incoming>> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| Error::Unavailable(format!("connecting to {address}: {error}")))?;
    // Small writes are the whole request; waiting for more of them would be measured as the server's time.
    stream.set_nodelay(true)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broke(address, &error))?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .expect("method, path and headers are constants of this module, and valid");
    sender.send_request(request).await.map_err(|error| broke(address, &error))
}

fn broke(address: SocketAddr, error: &hyper::Error) -> Error {
    Error::Unavailable(format!("the connection to {address} broke: {error}"))
}

async fn whole(answer: Response<Incoming>) -> Result<Bytes> {
    let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| Error::Unavailable(format!("an answer broke off: {error}")))
}

/// What an answer that is not 200 says.
async fn refusal(answer: Response<Incoming>) -> Error {
    let status = answer.status();
    let said = match whole(answer).await {
        Ok(body) => message_in(&body),
        Err(error) => error.to_string(),
    };
    Error::Unavailable(format!("the server answered {status}: {said}"))
}

fn message_in(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let message = value["error"]["message"].as_str();
    message.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned)
}

/// A stream as far as it was read.
struct Reading {
    begun: Instant,
    first_token: Option<Duration>,
    timings: Option<Timings>,
}

impl Reading {
    fn event(&mut self, data: &str, piece: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        if data == "[DONE]" {
            return Ok(());
        }
        let event: Value =
            serde_json::from_str(data).map_err(|error| Error::Data(format!("an event is no JSON: {error}")))?;
        if let Some(message) = event["error"]["message"].as_str() {
            return Err(Error::Unavailable(format!("the answer broke off: {message}")));
        }
        if let Some(text) = event["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
            self.first_token.get_or_insert_with(|| self.begun.elapsed());
            piece(text)?;
        }
        if let Some(timings) = event.get("timings").filter(|timings| !timings.is_null()) {
            let timings = serde_json::from_value(timings.clone());
            self.timings = Some(timings.map_err(|error| Error::Data(format!("timings are not as promised: {error}")))?);
        }
        Ok(())
    }

    fn end(self) -> Result<Chat> {
        let missing = |what: &str| Error::Data(format!("the stream ended without {what}"));
        Ok(Chat {
            first_token: self.first_token.ok_or_else(|| missing("any text"))?,
            timings: self.timings.ok_or_else(|| missing("timings"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn reading() -> Reading {
        Reading { begun: Instant::now(), first_token: None, timings: None }
    }

    #[test]
    fn a_stream_becomes_text_and_timings() {
        let mut reading = reading();
        let mut shown = String::new();
        let mut piece = |text: &str| -> Result<()> {
            shown.push_str(text);
            Ok(())
        };
        let last = json!({"choices": [], "timings": Timings { prompt_n: 7, ..Timings::default() }}).to_string();
        for data in [
            r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
            r#"{"choices":[{"delta":{"content":"He"}}]}"#,
            r#"{"choices":[{"delta":{"content":"llo"}}]}"#,
            &last,
            "[DONE]",
        ] {
            reading.event(data, &mut piece).unwrap();
        }
        let chat = reading.end().unwrap();
        assert_eq!((shown.as_str(), chat.timings.prompt_n), ("Hello", 7));
    }

    #[test]
    fn an_error_in_the_stream_is_one() {
        let error =
            reading().event(r#"{"error":{"message":"section weights, offset 7"}}"#, &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("offset 7"));
        assert_eq!(error.code(), 69);
    }

    #[test]
    fn a_stream_without_its_end_is_bad_data() {
        assert_eq!(reading().end().unwrap_err().code(), 65);
    }
}
