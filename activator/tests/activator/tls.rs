//! TLS on both ports: certificates that change, and clients that show theirs.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use activator::{
    Activator, Config, Source,
    tenants::{TenantEntry, key::KeyHash},
    tls::TlsEntry,
};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    double::Start,
    house::{Files, chat},
};

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key of this name, in PEM.
    pub fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

pub fn write(folder: &Path, (certificate, key): &(String, String)) -> TlsEntry {
    std::fs::write(folder.join("tls.crt"), certificate).unwrap();
    std::fs::write(folder.join("tls.key"), key).unwrap();
    entry(folder)
}

/// Of what was written to this folder, for both ports.
pub fn entry(folder: &Path) -> TlsEntry {
    TlsEntry { certificate: folder.join("tls.crt"), key: folder.join("tls.key"), client_ca: None, admin: true }
}

/// A client that knows this authority and shows this certificate.
fn client(authority: &Authority, shown: Option<&(String, String)>, protocol: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(default_provider().into()).with_safe_default_protocol_versions();
    let builder = builder.unwrap().with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.into()];
    TlsConnector::from(Arc::new(config))
}

/// The status of a chat request over TLS.
async fn ask(activator: &Activator, client: &TlsConnector, key: Option<&str>) -> Result<u16, String> {
    let request = request("POST", "/v1/chat/completions", key, &chat("", false).to_string());
    send(activator.api(), client, request).await.map(|(status, _)| status)
}

/// Status and body of an answer over TLS.
async fn send(
    to: SocketAddr,
    client: &TlsConnector,
    request: Request<Full<bytes::Bytes>>,
) -> Result<(u16, String), String> {
    let stream = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = client.connect(name, stream).await.map_err(|error| error.to_string())?;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    let answer = if h2 {
        let (mut requests, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        requests.send_request(request).await
    } else {
        let (mut requests, connection) = hyper::client::conn::http1::handshake(io).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        requests.send_request(request).await
    };
    let answer = answer.map_err(|error| error.to_string())?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
    Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}

fn request(method: &str, path: &str, key: Option<&str>, body: &str) -> Request<Full<bytes::Bytes>> {
    let request = Request::builder().method(method).uri(format!("https://localhost{path}")).header("host", "localhost");
    let request = request.header("content-type", "application/json");
    let request = key.iter().fold(request, |request, key| request.header("authorization", format!("Bearer {key}")));
    request.body(Full::new(bytes::Bytes::copy_from_slice(body.as_bytes()))).unwrap()
}

/// Whether somebody who speaks in the clear gets an answer.
async fn answers_in_the_clear(port: SocketAddr) -> bool {
    let mut plain = TcpStream::connect(port).await.unwrap();
    let asked = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut plain, asked).await.unwrap();
    let mut read = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut plain, &mut read).await;
    String::from_utf8_lossy(&read).contains("200 OK")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_protocols_are_spoken_under_tls_and_clients_are_known_by_their_certificates() {
    let (servers, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let files = Files::new();
    files.write(&files.script(&[Start::Ready]));
    let folder = files.folder.path();
    let mut entry = write(folder, &servers.sign("localhost"));
    std::fs::write(folder.join("clients.crt"), &clients.pem).unwrap();
    entry.client_ca = Some(folder.join("clients.crt"));
    let (key, hash) = KeyHash::new().unwrap();
    let acme = TenantEntry { keys: vec![hash], client_names: vec!["acme.test".into()], ..TenantEntry::new("acme") };
    let config = Config { tls: Some(entry), tenants: vec![acme], ..files.config() };
    let activator = Activator::start(config).await.unwrap();

    let (acme, other) = (clients.sign("acme.test"), clients.sign("other.test"));
    for protocol in ["h2", "http/1.1"] {
        assert_eq!(ask(&activator, &client(&servers, Some(&acme), protocol), None).await, Ok(200), "{protocol}");
        assert_eq!(ask(&activator, &client(&servers, Some(&other), protocol), None).await, Ok(401));
        assert_eq!(ask(&activator, &client(&servers, None, protocol), None).await, Ok(401));
        assert_eq!(ask(&activator, &client(&servers, None, protocol), Some(&key)).await, Ok(200));
        let forged = strangers.sign("acme.test");
        assert!(
            ask(&activator, &client(&servers, Some(&forged), protocol), None).await.is_err(),
            "not its authority's"
        );
    }
    assert!(ask(&activator, &client(&strangers, None, "h2"), None).await.is_err(), "clients check, too");
    // Who speaks in the clear gets no further.
    assert!(!answers_in_the_clear(activator.api()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_port_speaks_tls_if_that_is_said_and_no_certificate_makes_an_operator() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let files = Files::new();
    files.write(&files.script(&[Start::Ready]));
    let folder = files.folder.path();
    std::fs::write(folder.join("clients.crt"), &clients.pem).unwrap();
    let entry = TlsEntry { client_ca: Some(folder.join("clients.crt")), ..write(folder, &servers.sign("localhost")) };
    let (key, hash) = KeyHash::new().unwrap();
    let acme = TenantEntry { client_names: vec!["acme.test".into()], ..TenantEntry::new("acme") };
    // Where others reach it, so that nobody is an operator for being here.
    let admin = ([0, 0, 0, 0], 0).into();
    let config = Config { admin, tls: Some(entry), tenants: vec![acme], admin_keys: vec![hash], ..files.config() };
    let activator = Activator::start(config.clone()).await.unwrap();
    let admin = SocketAddr::from(([127, 0, 0, 1], activator.admin().port()));
    let shown = clients.sign("acme.test");
    for protocol in ["h2", "http/1.1"] {
        let client = client(&servers, Some(&shown), protocol);
        for (path, part) in
            [("/livez", "alive"), ("/readyz", "ready"), ("/metrics", "pilotlight_held"), ("/slots", "\"m\"")]
        {
            let (status, said) = send(admin, &client, request("GET", path, None, "")).await.unwrap();
            assert!(status == 200 && said.contains(part), "{path}: {status} {said}");
        }
        let wish = |key| request("POST", "/admin/load", key, r#"{"model": "m"}"#);
        let asked = chat("", false).to_string();
        let playground = |key| request("POST", "/playground/v1/chat/completions", key, &asked);
        for refused in [wish(None), wish(Some("pl_none")), playground(None)] {
            let (status, said) = send(admin, &client, refused).await.unwrap();
            assert!(status == 401 && said.contains("operator's key"), "{status} {said}");
        }
        assert_eq!(send(admin, &client, wish(Some(&key))).await.unwrap().0, 200);
        assert_eq!(send(admin, &client, playground(Some(&key))).await.unwrap().0, 200);
    }
    assert!(!answers_in_the_clear(admin).await);

    let plain = config.tls.clone().map(|entry| TlsEntry { admin: false, ..entry });
    let activator = Activator::start(Config { tls: plain, ..config }).await.unwrap();
    assert!(answers_in_the_clear(SocketAddr::from(([127, 0, 0, 1], activator.admin().port()))).await);
    assert!(!answers_in_the_clear(activator.api()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_certificates_are_used_without_a_restart_and_wrong_ones_never() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files::new();
    files.write(&files.script(&[Start::Ready]));
    let file = files.folder.path().join("pilotlight.toml");
    std::fs::write(&file, "").unwrap();
    let certificates = tempfile::tempdir().unwrap();
    let entry = write(certificates.path(), &old.sign("localhost"));
    let config = Config { tls: Some(entry), ..files.config() };
    let source = Source::new(
        file,
        Arc::new({
            let config = config.clone();
            move || Ok(config.clone())
        }),
    );
    let activator = Activator::begin(config.clone(), Some(source)).await.unwrap();
    assert_eq!(ask(&activator, &client(&old, None, "h2"), None).await, Ok(200));
    std::fs::write(certificates.path().join("tls.crt"), "no certificate").unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(ask(&activator, &client(&old, None, "h2"), None).await, Ok(200));
    write(certificates.path(), &new.sign("localhost"));
    let renewed = async { while ask(&activator, &client(&new, None, "h2"), None).await != Ok(200) {} };
    tokio::time::timeout(Duration::from_secs(20), renewed).await.unwrap();
    let livez = async |known: &Authority| {
        send(activator.admin(), &client(known, None, "h2"), request("GET", "/livez", None, "")).await
    };
    assert_eq!(livez(&new).await.map(|(status, _)| status), Ok(200), "the admin port has it, too");
    assert!(livez(&old).await.is_err());

    let wrong = TlsEntry { key: certificates.path().join("none"), ..config.tls.clone().unwrap() };
    let error = Activator::start(Config { tls: Some(wrong), ..config }).await.unwrap_err();
    assert_eq!((error.exit_code(), error.to_string().contains("none")), (65, true), "{error}");
}
