//! A Hugging Face hub small enough to stand on loopback: the two routes a pull uses, with ranges, commits, tokens.

use super::loopback::{Loopback, head};
use std::{
    collections::BTreeMap,
    io::{BufReader, Write},
    net::TcpStream,
    sync::{Arc, Mutex},
};

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A file and its `ETag`.
pub(super) type Files = BTreeMap<&'static str, (Vec<u8>, String)>;

pub(super) struct HubServer {
    server: Loopback,
    shared: Arc<Shared>,
}

struct Shared {
    repository: &'static str,
    token: Option<&'static str>,
    files: Files,
    asked: Mutex<Vec<String>>,
}

impl HubServer {
    pub(super) fn start(repository: &'static str, token: Option<&'static str>, files: Files) -> Self {
        let shared = Arc::new(Shared { repository, token, files, asked: Mutex::default() });
        let answering = shared.clone();
        Self { server: Loopback::start(move |stream| answering.answer(stream)), shared }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// The paths asked for so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }
}

impl Shared {
    /// One request, one connection.
    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let lines = head(&mut reader)?;
        let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
        self.asked.lock().unwrap().push(path.clone());
        let header = |name: &str| {
            lines.iter().find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
        };
        let authorised = self
            .token
            .is_none_or(|token| header("authorization").is_some_and(|(_, value)| value == format!("Bearer {token}")));
        let response =
            if authorised { self.respond(&path, header("range").map(|(_, value)| value)) } else { status(401) };
        reader.get_mut().write_all(&response)
    }

    fn respond(&self, path: &str, range: Option<&str>) -> Vec<u8> {
        if path == format!("/api/models/{}/revision/main", self.repository) {
            let names: Vec<_> = self.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
            let info = serde_json::json!({ "sha": COMMIT, "siblings": names }).to_string();
            return respond_with("200 OK", "", info.as_bytes());
        }
        let name = path.strip_prefix(&format!("/{}/resolve/{COMMIT}/", self.repository));
        let Some((content, etag)) = name.and_then(|name| self.files.get(name)) else { return status(404) };
        let range = range.and_then(|range| range.strip_prefix("bytes="));
        let (start, end) = range.and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(content.len(), |last: usize| (last + 1).min(content.len()));
        let headers = format!(
            "ETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {start}-{}/{}\r\n",
            end.saturating_sub(1),
            content.len()
        );
        respond_with("206 Partial Content", &headers, &content[start..end])
    }
}

fn status(code: u16) -> Vec<u8> {
    respond_with(&format!("{code} No"), "", b"")
}

fn respond_with(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
