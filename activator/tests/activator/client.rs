//! A plain HTTP/1.1 client: one connection a request, so that dropping the answer is leaving.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinSet};

/// An answer whose body is still to be read. Dropping it closes the connection.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    _connection: JoinSet<()>,
}

impl Answer {
    /// The next bytes of the body; `None` at its end, an error if it breaks off.
    pub async fn next(&mut self) -> Option<Result<String, hyper::Error>> {
        let frame = self.body.frame().await?;
        Some(frame.map(|frame| String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()))
    }

    /// The whole body.
    pub async fn text(mut self) -> String {
        let mut text = String::new();
        while let Some(part) = self.next().await {
            text.push_str(&part.unwrap());
        }
        text
    }

    /// The whole body as JSON.
    pub async fn json(self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The message of an OpenAI error object, with the status, which must be this one.
    pub async fn error(self, status: u16) -> String {
        let got = self.status;
        let body = self.json().await;
        assert_eq!(got, status, "{body}");
        assert!(body["error"]["type"].is_string(), "{body}");
        body["error"]["message"].as_str().unwrap().to_owned()
    }
}

pub async fn send(to: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let mut task = JoinSet::new();
    task.spawn(async { drop(connection.await) });
    let (head, body) = requests.send_request(request).await.unwrap().into_parts();
    Answer { status: head.status, headers: head.headers, body, _connection: task }
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", "test.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).unwrap()
}

pub async fn get(to: SocketAddr, path: &str) -> Answer {
    send(to, request("GET", path, &[], "")).await
}
