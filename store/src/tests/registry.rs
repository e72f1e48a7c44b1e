//! A registry small enough to stand on loopback: manifests and blobs by digest, one tag.
#![allow(clippy::unwrap_used, dead_code, reason = "each test binary uses its own part")]

use super::loopback::{Loopback, head};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    io::{BufReader, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
};

pub const REPOSITORY: &str = "acme/guest";

pub struct Registry {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _server: Loopback,
}

#[derive(Default)]
struct Shared {
    /// By path.
    files: Mutex<BTreeMap<String, (&'static str, Vec<u8>)>>,
    asked: Mutex<Vec<String>>,
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |all, byte| all + &format!("{byte:02x}"))
}

/// A manifest with these layers: media type, digest, size.
pub fn manifest(layers: &[(&str, &str, u64)]) -> Vec<u8> {
    let descriptor = |(kind, digest, size): &(&str, &str, u64)| {
        format!("{{\"mediaType\":\"{kind}\",\"digest\":\"{digest}\",\"size\":{size}}}")
    };
    let layers: Vec<String> = layers.iter().map(descriptor).collect();
    let config = descriptor(&("application/vnd.wasm.config.v0+json", &sha256(b"{}"), 2));
    let kind = "application/vnd.oci.image.manifest.v1+json";
    format!("{{\"schemaVersion\":2,\"mediaType\":\"{kind}\",\"config\":{config},\"layers\":[{}]}}", layers.join(","))
        .into_bytes()
}

impl Registry {
    pub fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let answering = shared.clone();
        let server = Loopback::start(move |stream| answering.answer(stream));
        Self { address: server.address, shared, _server: server }
    }

    /// A guest with this component, tagged `latest`; its manifest's digest.
    pub fn push(&self, component: &[u8]) -> String {
        self.blob(&sha256(component), component);
        self.push_manifest(&manifest(&[("application/wasm", &sha256(component), component.len() as u64)]))
    }

    pub fn push_manifest(&self, manifest: &[u8]) -> String {
        let digest = sha256(manifest);
        for reference in [&digest, "latest"] {
            self.put(
                &format!("/v2/{REPOSITORY}/manifests/{reference}"),
                "application/vnd.oci.image.manifest.v1+json",
                manifest,
            );
        }
        digest
    }

    /// What is answered for a layer.
    pub fn blob(&self, digest: &str, bytes: &[u8]) {
        self.put(&format!("/v2/{REPOSITORY}/blobs/{digest}"), "application/octet-stream", bytes);
    }

    fn put(&self, path: &str, kind: &'static str, bytes: &[u8]) {
        self.shared.files.lock().unwrap().insert(path.to_owned(), (kind, bytes.to_vec()));
    }

    pub fn pinned(&self, digest: &str) -> String {
        format!("oci://{}/{REPOSITORY}@{digest}", self.address)
    }

    pub fn tagged(&self) -> String {
        format!("oci://{}/{REPOSITORY}:latest", self.address)
    }

    /// How often it was asked for something so far.
    pub fn asked(&self) -> usize {
        self.shared.asked.lock().unwrap().len()
    }
}

impl Shared {
    /// One request, one connection.
    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let first = head(&mut reader)?.into_iter().next().unwrap_or_default();
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().to_owned());
        self.asked.lock().unwrap().push(path.clone());
        let files = self.files.lock().unwrap();
        let (status, kind, body) = match files.get(&path) {
            _ if path == "/v2/" => ("200 OK", "application/json", &b"{}"[..]),
            Some((kind, bytes)) => ("200 OK", *kind, &bytes[..]),
            None => (
                "404 Not Found",
                "application/json",
                &b"{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\",\"message\":\"unknown\"}]}"[..],
            ),
        };
        let digest = if path.contains("/manifests/") {
            format!("Docker-Content-Digest: {}\r\n", sha256(body))
        } else {
            String::new()
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{digest}Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let body = if method == "HEAD" { &[] } else { body };
        reader.get_mut().write_all(&[head.as_bytes(), body].concat())
    }
}
