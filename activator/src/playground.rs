//! The dashboard's way to a model: the API port is another origin to its page, so the admin port has the chat's path, too.
//!
//! **Invariant:** answers only who reached the admin port on purpose. Only through a loopback address; and as a browser lets any
//! page send requests there, only JSON (which other origins may not send unasked), only from the page's own origin, and only under
//! a name that nobody else can have pointed here (an address, or `localhost`). All of that is checked before the body is read.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use http::{
    HeaderMap,
    header::{CONTENT_TYPE, HOST, ORIGIN},
    uri::{Authority, Uri},
};
use protocol::{ApiError, ErrorKind};

use crate::{
    answers,
    api::{self, Api},
    headers,
    probes::Readiness,
};

/// Where the page asks.
pub const PATH: &str = "/playground/v1/chat/completions";

/// Whether anybody is let in at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Who gets here may ask.
    Open,
    /// The admin port can be reached from elsewhere, and asks nobody who they are.
    Closed,
}

impl Door {
    /// Open where the admin port listens on a loopback address.
    pub fn at(admin: SocketAddr) -> Self {
        if admin.ip().to_canonical().is_loopback() { Self::Open } else { Self::Closed }
    }
}

/// The playground's one path.
pub fn router(api: Arc<Api>, readiness: Readiness, door: Door) -> Router {
    api::chat_at(PATH, api, readiness).layer(middleware::from_fn_with_state(door, guard))
}

async fn guard(State(door): State<Door>, request: Request, next: Next) -> Response {
    match check(door, request.headers(), request.uri()) {
        Ok(()) => next.run(request).await,
        Err(error) => answers::error(&error),
    }
}

fn check(door: Door, headers: &HeaderMap, uri: &Uri) -> Result<(), ApiError> {
    if door == Door::Closed {
        return Err(forbidden(
            "The playground is open only where the admin port listens on a loopback address. Start serve with \
             --admin 127.0.0.1:9464, or ask the API port.",
        ));
    }
    let host = host(headers, uri).filter(is_nobodys_name);
    let host =
        host.ok_or_else(|| forbidden("The playground is asked by an address or as localhost, under no other name."))?;
    // Two origins are two pages.
    let foreign = headers.get_all(ORIGIN).iter().any(|origin| !same(origin.as_bytes(), &host));
    if foreign {
        return Err(forbidden("The playground answers only its own page, and this request comes from another origin."));
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
    fn only_a_loopback_address_opens_the_door() {
        for (address, door) in [
            ("127.0.0.1:1", Door::Open),
            ("127.9.9.9:1", Door::Open),
            ("[::1]:1", Door::Open),
            ("[::ffff:127.0.0.1]:1", Door::Open),
            ("0.0.0.0:1", Door::Closed),
            ("[::]:1", Door::Closed),
            ("192.0.2.1:1", Door::Closed),
        ] {
            assert_eq!(Door::at(address.parse().unwrap()), door, "{address}");
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
