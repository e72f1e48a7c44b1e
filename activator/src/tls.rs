//! TLS on the API port, and on the admin port where that is wished: the server's certificate, and clients' where they have one.
//!
//! **Invariant:** TLS 1.2 and 1.3 by rustls, nothing older. A client need not show a certificate; one that is shown is signed by the configured
//! authority, or the handshake fails; it says whose a request is and makes nobody an operator. New connections use the files as they were read last; files that are wrong change nothing.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig, ServerConnection,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::tenants::ClientNames;

/// A handshake takes no longer.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// No file of certificates is larger.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Names of one certificate that are looked at.
const NAMES_MAX: usize = 100;

/// Files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsEntry {
    /// The server's certificate and those between it and a known authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who signs clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// The admin port speaks TLS, too.
    pub admin: bool,
}

impl TlsEntry {
    /// All of them.
    pub fn files(&self) -> Vec<PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(&self.client_ca).cloned().collect()
    }
}

/// What new connections are accepted with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tls(Arc<ArcSwap<ServerConfig>>);

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// For people, with the file's name.
    pub fn load(entry: &TlsEntry) -> Result<Self, String> {
        Ok(Self(Arc::new(ArcSwap::new(read(entry)?))))
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// As [`Tls::load`]; nothing has changed.
    pub fn reload(&self, entry: &TlsEntry) -> Result<(), String> {
        self.0.store(read(entry)?);
        Ok(())
    }

    /// The handshake, and the names that the client has shown.
    ///
    /// # Errors
    /// It failed, or took too long.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<(TlsStream<TcpStream>, ClientNames)> {
        let acceptor = TlsAcceptor::from(self.0.load_full());
        let stream = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await??;
        let names = names(stream.get_ref().1);
        Ok((stream, names))
    }
}

fn names(connection: &ServerConnection) -> ClientNames {
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    let parsed = certificate.and_then(|certificate| webpki::EndEntityCert::try_from(certificate).ok());
    let Some(parsed) = parsed else { return ClientNames::default() };
    let names = parsed.valid_dns_names().chain(parsed.valid_uri_names());
    ClientNames(names.take(NAMES_MAX).map(str::to_owned).collect())
}

fn read(entry: &TlsEntry) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(default_provider());
    let wrong = |path: &Path, why: &dyn std::fmt::Display| format!("TLS, {}: {why}", path.display());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &entry.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| wrong(path, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).allow_unauthenticated();
            builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong(path, &error))?)
        }
    };
    let key = PrivateKeyDer::from_pem_slice(&bytes(&entry.key)?).map_err(|error| wrong(&entry.key, &error))?;
    let mut config = builder
        .with_single_cert(certificates(&entry.certificate)?, key)
        .map_err(|error| wrong(&entry.certificate, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = bytes(path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match read {
        Ok(read) if read.is_empty() => Err(format!("TLS, {}: it has no certificate", path.display())),
        Ok(read) => Ok(read),
        Err(error) => Err(format!("TLS, {}: {error}", path.display())),
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("TLS, {}: {why}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| wrong(&error))?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, FILE_BYTES_MAX + 1), &mut bytes)
        .map_err(|error| wrong(&error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX { Err(wrong(&"larger than 1 MiB")) } else { Ok(bytes) }
}
