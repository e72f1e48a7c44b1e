//! Who may do more on the admin port than look: operators.
//!
//! **Invariant:** an operator shows a key of the configuration; or, where the port listens on a loopback address, reached it on purpose. As a
//! browser lets any page send requests there, only JSON is taken (which other origins may not send unasked), only from the page's own origin, and
//! only under a name that nobody else can have pointed here (an address, or `localhost`). All of that is checked before the body is read.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{
    HeaderMap,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN},
    uri::{Authority, Uri},
};
use protocol::{ApiError, ErrorKind};

use crate::{answers, headers, settings::Settings, tenants};

/// Somebody who was let in and is no tenant: an extension of the request.
#[derive(Clone, Debug)]
pub struct Operator {
    /// How that is known, for the audit.
    pub by: String,
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Door {
    loopback: bool,
    settings: Arc<ArcSwap<Settings>>,
}

impl Door {
    /// Of an admin port that listens here.
    pub fn new(admin: SocketAddr, settings: Arc<ArcSwap<Settings>>) -> Self {
        Self { loopback: is_loopback(admin), settings }
    }

    /// Who asks; `None`: somebody on this machine who shows another key, to be looked at where tenants are known.
    fn check(&self, headers: &HeaderMap, uri: &Uri) -> Result<Option<Operator>, ApiError> {
        let settings = self.settings.load();
        if let Some((id, ())) = tenants::presented(headers).and_then(|key| settings.admin_keys.find(key)) {
            return Ok(Some(Operator { by: format!("operator:{id}") }));
        }
        if !self.loopback {
            let how = "This needs an operator's key, as the header Authorization: Bearer KEY, since the admin port can be reached from other \
                       machines: make one (pilotlight key new), and write its hash into the configuration (operators.keys).";
            return Err(ApiError::new(ErrorKind::Unauthorized, how));
        }
        on_purpose(headers, uri)?;
        let nothing_shown = !headers.contains_key(AUTHORIZATION);
        Ok(nothing_shown.then(|| Operator { by: "operator:local".into() }))
    }
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Lets in who may; in what follows an [`Operator`] is an extension.
pub async fn guard(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    match door.check(request.headers(), request.uri()) {
        Ok(operator) => {
            operator.map(|operator| request.extensions_mut().insert(operator));
            next.run(request).await
        }
        Err(error) => answers::error(&error),
    }
}

fn on_purpose(headers: &HeaderMap, uri: &Uri) -> Result<(), ApiError> {
    let host = host(headers, uri).filter(is_nobodys_name);
    let host = host.ok_or_else(|| forbidden("This is asked by an address or as localhost, under no other name."))?;
    // Two origins are two pages.
    let foreign = headers.get_all(ORIGIN).iter().any(|origin| !same(origin.as_bytes(), &host));
    if foreign {
        return Err(forbidden("Only this port's own page may ask this, and the request comes from another origin."));
    }
    if headers::text(headers, CONTENT_TYPE).is_none_or(|kind| !is_json(kind)) {
        return Err(ApiError::field("content-type", "must be application/json"));
    }
    Ok(())
}

fn forbidden(message: &str) -> ApiError {
    ApiError::new(ErrorKind::Forbidden, message)
}

/// Whom the client thinks it asks; nobody, if it says several things.
fn host(headers: &HeaderMap, uri: &Uri) -> Option<Authority> {
    let mut said = headers.get_all(HOST).iter().map(|host| Authority::try_from(host.as_bytes()).ok());
    let host = said.next().unwrap_or_else(|| uri.authority().cloned())?;
    let alike = |other: &Authority| *other == host;
    (said.all(|other| other.as_ref().is_some_and(alike)) && uri.authority().is_none_or(alike)).then_some(host)
}

/// What no foreign name server can answer for.
fn is_nobodys_name(host: &Authority) -> bool {
    let name = host.host();
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    let whole = !host.as_str().contains('@');
    whole && (name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok())
}

/// Whether an origin (`scheme://authority`, or `null`) is this host's.
fn same(origin: &[u8], host: &Authority) -> bool {
    let origin = Uri::try_from(origin).ok();
    // A bare word, such as `null`, passes for an authority without a scheme.
    let origin = origin.as_ref().filter(|origin| origin.scheme().is_some()).and_then(Uri::authority);
    origin.is_some_and(|origin| origin == host)
}

fn is_json(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loopback_address_is_open_without_a_key() {
        for (address, open) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("192.0.2.1:1", false),
        ] {
            assert_eq!(is_loopback(address.parse().unwrap()), open, "{address}");
        }
    }

    #[test]
    fn hosts_that_a_name_server_could_point_here_are_refused() {
        for (host, good) in [
            ("127.0.0.1", true),
            ("127.0.0.1:9464", true),
            ("[::1]:9464", true),
            ("localhost", true),
            ("LOCALHOST:9464", true),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("evil.example:9464", false),
            ("user@127.0.0.1", false),
        ] {
            let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            let found = super::host(&headers, &Uri::from_static("/")).is_some_and(|host| is_nobodys_name(&host));
            assert_eq!(found, good, "{host}");
        }
        let mut two = HeaderMap::from_iter([(HOST, "127.0.0.1".parse().unwrap())]);
        assert!(super::host(&two, &Uri::from_static("http://evil.example/")).is_none());
        two.append(HOST, "evil.example".parse().unwrap());
        assert!(super::host(&two, &Uri::from_static("/")).is_none());
        assert!(super::host(&HeaderMap::new(), &Uri::from_static("/")).is_none());
    }

    #[test]
    fn an_origin_is_ours_by_its_whole_authority() {
        let host = Authority::from_static("127.0.0.1:9464");
        for (origin, ours) in [
            ("http://127.0.0.1:9464", true),
            ("https://127.0.0.1:9464", true),
            ("http://127.0.0.1:8080", false),
            ("http://127.0.0.1", false),
            ("http://localhost:9464", false),
            ("http://evil.example", false),
            ("127.0.0.1:9464", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(same(origin.as_bytes(), &host), ours, "{origin}");
        }
    }
}
