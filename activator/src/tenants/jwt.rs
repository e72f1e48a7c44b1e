//! Tokens of an identity provider (JWT, RFC 7519; OpenID Connect): signed by keys that it publishes (JWKS, RFC 7517), which change.
//!
//! **Invariant:** asymmetric signatures alone are taken, never `none` and never a shared secret; `exp`, issuer and audience must be right. Keys are
//! read again every few minutes, and, at most once in ten seconds, when a token names one that is not known. Where that fails, the old ones stay.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{AlgorithmParameters, JwkSet},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};

/// Keys are read again after this time.
const REFRESH_EVERY: Duration = Duration::from_secs(300);
/// But not sooner than this after the last time.
const REFRESH_MIN: Duration = Duration::from_secs(10);
/// How long a request waits for keys that might have its own.
const REFRESH_WAIT: Duration = Duration::from_secs(2);
/// How long a provider may take.
const FETCH_MAX: Duration = Duration::from_secs(10);
/// A document is no larger.
const JWKS_BYTES_MAX: u64 = 1 << 20;
/// A token is no larger.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Clocks may differ by so many seconds.
const LEEWAY_S: u64 = 30;

const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Where an issuer publishes its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file.
    File(PathBuf),
    /// `https`, or `http` on the loopback interface.
    Url(String),
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => f.write_str(url),
        }
    }
}

/// Who signs tokens, and which of them are for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerEntry {
    /// `iss`.
    pub issuer: String,
    /// `aud`, one of several allowed in the token.
    pub audience: String,
    /// Its keys.
    pub keys: KeySource,
    /// The claim that names the tenant: `tenant`, or a path such as `org.id`.
    pub tenant_claim: String,
    /// Tenants that it may speak for; `None`: all. Required where there are several issuers.
    pub tenants: Option<Vec<String>>,
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// `sub`; empty where it says none.
    pub subject: String,
    /// The claim that names the tenant.
    pub tenant: String,
}

/// Why a token is no good; for the client, and for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadToken(pub &'static str);

/// An issuer with the keys it has at the moment.
#[derive(Debug)]
pub struct Issuer {
    /// What is configured.
    pub entry: IssuerEntry,
    keys: ArcSwap<JwkSet>,
    wanted: Notify,
    /// Times the keys were read.
    read: watch::Sender<u64>,
}

impl Issuer {
    /// Reads the keys once.
    ///
    /// # Errors
    /// They cannot be had. What to do is said.
    pub async fn new(entry: IssuerEntry) -> Result<Arc<Self>, String> {
        let source = entry.keys.clone();
        let keys = fetch(source).await?;
        let (read, _) = watch::channel(0);
        Ok(Arc::new(Self { entry, keys: ArcSwap::from_pointee(keys), wanted: Notify::new(), read }))
    }

    /// Reads the keys again and again, until nobody else has this issuer.
    pub fn keep_fresh(self: &Arc<Self>) {
        let (weak, mut at) = (Arc::downgrade(self), Instant::now());
        tokio::spawn(async move {
            while let Some(issuer) = weak.upgrade() {
                let regular = tokio::time::sleep_until((at + REFRESH_EVERY).into());
                tokio::select! {
                    () = regular => {}
                    () = issuer.wanted.notified() => tokio::time::sleep_until((at + REFRESH_MIN).into()).await,
                }
                match fetch(issuer.entry.keys.clone()).await {
                    Ok(keys) => issuer.keys.store(Arc::new(keys)),
                    Err(error) => tracing::warn!(issuer = issuer.entry.issuer, error, "keeping the keys known before"),
                }
                issuer.read.send_modify(|times| *times += 1);
                at = Instant::now();
            }
        });
    }

    /// What a token says, if it is good. One whose key is not known waits for the keys to be read again.
    pub async fn check(&self, token: &str) -> Result<Said, BadToken> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(BadToken("the token is too long"));
        }
        let header = decode_header(token).map_err(|_| BadToken("the token is no JWT"))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(BadToken("the token is not signed with a key that can be published"));
        }
        let kid = header.kid.as_deref();
        if !self.knows(kid) {
            let mut read = self.read.subscribe();
            self.wanted.notify_one();
            // Who is not known afterwards is refused below.
            let _ = tokio::time::timeout(REFRESH_WAIT, read.changed()).await;
        }
        self.said(token, header.alg, kid)
    }

    /// Whether a token of this issuer can be this tenant's.
    pub fn may_speak_for(&self, tenant: &str) -> bool {
        self.entry.tenants.as_ref().is_none_or(|tenants| tenants.iter().any(|name| name == tenant))
    }

    fn knows(&self, kid: Option<&str>) -> bool {
        kid.is_none_or(|kid| self.keys.load().find(kid).is_some())
    }

    fn said(&self, token: &str, algorithm: Algorithm, kid: Option<&str>) -> Result<Said, BadToken> {
        let keys = self.keys.load();
        let fits = |key: &&jsonwebtoken::jwk::Jwk| match kid {
            Some(kid) => key.common.key_id.as_deref() == Some(kid),
            None => true,
        };
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[&self.entry.issuer]);
        validation.set_audience(&[&self.entry.audience]);
        let mut why = BadToken("the token is signed with a key that its issuer does not publish");
        for key in keys.keys.iter().filter(fits).filter(|key| is_asymmetric(&key.algorithm)) {
            let Ok(key) = DecodingKey::from_jwk(key) else { continue };
            match decode::<Map<String, Value>>(token, &key, &validation) {
                Ok(token) => return self.read(&token.claims),
                Err(error) => why = reason(&error),
            }
        }
        Err(why)
    }

    fn read(&self, claims: &Map<String, Value>) -> Result<Said, BadToken> {
        let mut parts = self.entry.tenant_claim.split('.');
        let first = parts.next().and_then(|part| claims.get(part));
        let tenant = parts.fold(first, |value, part| value?.get(part)).and_then(Value::as_str);
        let tenant = tenant.ok_or(BadToken("the token names no tenant"))?.to_owned();
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Said { subject, tenant })
    }
}

fn is_asymmetric(parameters: &AlgorithmParameters) -> bool {
    !matches!(parameters, AlgorithmParameters::OctetKey(_))
}

fn reason(error: &jsonwebtoken::errors::Error) -> BadToken {
    use jsonwebtoken::errors::ErrorKind;
    BadToken(match error.kind() {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidIssuer => "the token is another issuer's",
        ErrorKind::InvalidAudience => "the token is for somebody else",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks exp, iss or aud",
        ErrorKind::InvalidSignature => "the token's signature is wrong",
        _ => "the token is no good",
    })
}

async fn fetch(source: KeySource) -> Result<JwkSet, String> {
    let read = tokio::task::spawn_blocking(move || read(&source));
    read.await.map_err(|error| error.to_string())?
}

fn read(source: &KeySource) -> Result<JwkSet, String> {
    let wrong = |why: &dyn fmt::Display| format!("the keys of tokens, {source}, cannot be read: {why}");
    let bytes = match source {
        KeySource::File(path) => std::fs::read(path).map_err(|error| wrong(&error))?,
        KeySource::Url(url) => {
            let agent = ureq::AgentBuilder::new().timeout(FETCH_MAX).redirects(0).build();
            let answer = agent.get(url).call().map_err(|error| wrong(&error))?;
            let mut bytes = Vec::new();
            let mut limited = std::io::Read::take(answer.into_reader(), JWKS_BYTES_MAX + 1);
            std::io::Read::read_to_end(&mut limited, &mut bytes).map_err(|error| wrong(&error))?;
            bytes
        }
    };
    if bytes.len() as u64 > JWKS_BYTES_MAX {
        return Err(wrong(&"the document is larger than 1 MiB"));
    }
    parse_keys(&bytes).map_err(|why| wrong(&why))
}

/// A document of keys. Those of kinds that are not known, or that are for something else, are passed over (RFC 7517, section 5).
///
/// # Errors
/// It is none, or has no key that is of use.
pub fn parse_keys(bytes: &[u8]) -> Result<JwkSet, String> {
    #[derive(Deserialize)]
    struct Document {
        keys: Vec<Value>,
    }
    let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let for_signatures = |key: &Value| key.get("use").is_none_or(|what| what == "sig");
    let keys: Vec<_> =
        document.keys.into_iter().filter(for_signatures).filter_map(|key| serde_json::from_value(key).ok()).collect();
    if keys.is_empty() { Err("it has no key that can be used here".into()) } else { Ok(JwkSet { keys }) }
}

/// Who says to have signed a token. Nothing of that is checked.
pub fn issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        iss: String,
    }
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    Some(serde_json::from_slice::<Claims>(&claims).ok()?.iss)
}

/// Whether an URL is one that keys may come from.
pub fn is_allowed(url: &str) -> bool {
    let Ok(url) = url.parse::<http::Uri>() else { return false };
    let host = url.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match url.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => loopback,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_other_kinds_are_passed_over() {
        let good = r#"{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        let odd = r#"{"kty":"EC","crv":"secp256k1","kid":"b","x":"","y":""},{"kty":"NEW"},7"#;
        let enc = good.replace("\"kty\"", "\"use\":\"enc\",\"kty\"");
        assert_eq!(
            parse_keys(format!("{{\"keys\":[{odd},{enc},{good}]}}").as_bytes()).map(|keys| keys.keys.len()),
            Ok(1)
        );
        for nothing in ["", "{}", "{\"keys\":[]}", "{\"keys\":[7]}"] {
            assert!(parse_keys(nothing.as_bytes()).is_err(), "{nothing}");
        }
    }

    #[test]
    fn keys_come_over_tls_or_from_this_machine() {
        for (url, allowed) in [
            ("https://id.example/jwks", true),
            ("http://127.0.0.1:80/jwks", true),
            ("http://[::1]/jwks", true),
            ("http://localhost/jwks", true),
            ("http://id.example/jwks", false),
            ("http://127.0.0.1.example/jwks", false),
            ("ftp://id.example", false),
            ("/etc/jwks.json", false),
        ] {
            assert_eq!(is_allowed(url), allowed, "{url}");
        }
    }
}
