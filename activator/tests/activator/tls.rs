//! TLS: certificates that change, and clients that show theirs.

use std::{path::Path, sync::Arc, time::Duration};

use activator::{
    Activator, Source,
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

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key of this name, in PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

fn write(folder: &Path, (certificate, key): &(String, String)) -> TlsEntry {
    std::fs::write(folder.join("tls.crt"), certificate).unwrap();
    std::fs::write(folder.join("tls.key"), key).unwrap();
    TlsEntry { certificate: folder.join("tls.crt"), key: folder.join("tls.key"), client_ca: None }
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
    let stream = TcpStream::connect(activator.api()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = client.connect(name, stream).await.map_err(|error| error.to_string())?;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let mut request = Request::post("https://localhost/v1/chat/completions").header("host", "localhost");
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let request = request.body(Full::new(bytes::Bytes::from(chat("", false).to_string()))).unwrap();
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
    answer.into_body().collect().await.map_err(|error| error.to_string())?;
    Ok(status)
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
    let config = activator::Config { tls: Some(entry), tenants: vec![acme], ..files.config() };
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
    let mut plain = TcpStream::connect(activator.api()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut read = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut plain, &mut read).await;
    assert!(!String::from_utf8_lossy(&read).contains("200"));
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
    let config = activator::Config { tls: Some(entry), ..files.config() };
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

    let wrong = TlsEntry { key: certificates.path().join("none"), ..config.tls.clone().unwrap() };
    let error = Activator::start(activator::Config { tls: Some(wrong), ..config }).await.unwrap_err();
    assert_eq!((error.exit_code(), error.to_string().contains("none")), (65, true), "{error}");
}
