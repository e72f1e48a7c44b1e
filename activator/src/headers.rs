//! Which headers cross the activator.
//!
//! Kept as they came: `Host`, `Forwarded`, `X-Forwarded-*`, `traceparent`, `K-Proxy-Request` and all the rest. Gone: what
//! belongs to one connection (RFC 9110, 7.6.1), and what only Knative or we may say.

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, HOST},
    uri::Authority,
};
use protocol::{
    resume,
    steps::{self, Steps},
    timings,
    usage::{self, Used},
};
use smallvec::SmallVec;

/// Prefixes of headers that a client may not set.
const INTERNAL: [&str; 2] = ["knative-serving-", "pilotlight-"];

/// What belongs to one connection.
fn is_of_one_connection(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Of a request, beside those: who somebody is has been settled, and is nobody else's to know; and the body is sent as it was read, and says its
/// length itself.
fn is_of_a_client(name: &str) -> bool {
    matches!(name, "authorization" | "content-length" | "expect")
}

/// What a client may not say.
fn is_internal(name: &str) -> bool {
    INTERNAL.iter().any(|prefix| name.starts_with(prefix))
}

/// What we tell a runtime of a request.
pub static WAKE: HeaderName = HeaderName::from_static(timings::WAKE_HEADER);
/// The same.
pub static ANSWER: HeaderName = HeaderName::from_static(resume::ANSWER_HEADER);
/// The same.
pub static RESUME: HeaderName = HeaderName::from_static(resume::RESUME_HEADER);
/// The same.
pub static SCOPE: HeaderName = HeaderName::from_static(timings::SCOPE_HEADER);
/// The same.
pub static SEED: HeaderName = HeaderName::from_static(timings::SEED_HEADER);

/// What a runtime says of its answer, and clients do not see.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told<'a> {
    /// Another runtime is to be asked, and why.
    pub interrupted: Option<&'a [u8]>,
    /// Which guests it went through.
    pub guests: Option<&'a str>,
    /// What its tokens depend on.
    pub identity: Option<&'a str>,
    used: Option<&'a str>,
    steps: Option<&'a str>,
}

impl<'a> Told<'a> {
    /// What is said in these. Most are the client's: to look through them costs less than to look each of these up.
    pub fn of(headers: &'a HeaderMap) -> Self {
        let mut told = Self::default();
        for name in headers.keys().filter(|name| is_internal(name.as_str())) {
            let said = text(headers, name);
            match name.as_str() {
                resume::INTERRUPTED_HEADER => told.interrupted = headers.get(name).map(HeaderValue::as_bytes),
                resume::GUESTS_HEADER => told.guests = said,
                resume::IDENTITY_HEADER => told.identity = said,
                usage::USED_HEADER => told.used = said,
                steps::STEPS_HEADER => told.steps = said,
                _ => {}
            }
        }
        told
    }

    /// What it has used.
    pub fn used(&self) -> Option<Used> {
        self.used?.parse().ok()
    }

    /// When what was done for it.
    pub fn steps(&self) -> Option<Steps> {
        self.steps?.parse().ok()
    }
}

/// A client's headers, for the runtime. What HTTP/2 says as `:authority` is said as `Host`, as HTTP/1.1 does.
pub fn to_runtime(mut headers: HeaderMap, authority: Option<&Authority>) -> HeaderMap {
    if let (false, Some(Ok(host))) = (headers.contains_key(HOST), authority.map(|it| it.as_str().parse())) {
        headers.insert(HOST, host);
    }
    strip(&mut headers, is_of_a_client);
    let_go(&mut headers);
    headers
}

/// Copies values into memory of their own size. As they came they are parts of what their connection has read into, and would keep all of it
/// for as long as the request is held; and their connection, which reads on, would need other memory at once.
fn let_go(headers: &mut HeaderMap) {
    let mut all = BytesMut::with_capacity(headers.values().map(HeaderValue::len).sum());
    for value in headers.values_mut() {
        all.extend_from_slice(value.as_bytes());
        let mut own = HeaderValue::from_maybe_shared(all.split().freeze()).expect("it was a header's value before");
        own.set_sensitive(value.is_sensitive());
        *value = own;
    }
}

/// A runtime's headers, for the client.
pub fn to_client(mut headers: HeaderMap) -> HeaderMap {
    strip(&mut headers, |_| false);
    headers
}

/// Takes away what is of one connection, what is internal, and more of which that is said.
fn strip(headers: &mut HeaderMap, more: impl Fn(&str) -> bool) {
    let mut gone = SmallVec::<[HeaderName; 4]>::new();
    for name in headers.keys() {
        let text = name.as_str();
        if !is_of_one_connection(text) && !is_internal(text) && !more(text) {
            continue;
        }
        if *name == CONNECTION {
            let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            gone.extend(values.flat_map(|value| value.split(',')).filter_map(|named| named.trim().parse().ok()));
        }
        gone.push(name.clone());
    }
    for name in gone {
        headers.remove(name);
    }
}

/// The authority that the runtime sees: the client's host, if it said one.
pub fn authority(headers: &HeaderMap) -> &str {
    headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .filter(|host| host.parse::<Authority>().is_ok())
        .unwrap_or("localhost")
}

/// A header's text; `None` if it is absent or no text.
pub fn text(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        headers
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
            .collect()
    }

    #[test]
    fn client_supplied_internal_headers_are_stripped_and_knatives_proxy_headers_kept() {
        let kept = [
            ("host", "m.example"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("traceparent", "00-1-2-01"),
            ("k-proxy-request", "activator"),
            ("content-type", "application/json"),
        ];
        let gone = [
            ("Knative-Serving-Namespace", "x"),
            ("knative-serving-revision", "x"),
            ("pilotlight-wake", "{}"),
            ("Pilotlight-Scope", "0"),
            ("pilotlight-seed", "7"),
            ("authorization", "Bearer pl_secret"),
            ("connection", "close, x-mine"),
            ("x-mine", "1"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("content-length", "3"),
        ];
        let all: Vec<_> = kept.iter().chain(&gone).copied().collect();
        assert_eq!(to_runtime(map(&all), None), map(&kept));
    }

    #[test]
    fn an_authority_is_said_as_host_where_there_is_none() {
        let authority = Authority::from_static("two.example");
        assert_eq!(to_runtime(HeaderMap::new(), Some(&authority)), map(&[("host", "two.example")]));
        assert_eq!(to_runtime(map(&[("host", "one.example")]), Some(&authority)), map(&[("host", "one.example")]));
    }

    #[test]
    fn a_strange_host_does_not_reach_the_authority() {
        assert_eq!(authority(&map(&[("host", "m.example:80")])), "m.example:80");
        assert_eq!(authority(&map(&[("host", "a b/c")])), "localhost");
        assert_eq!(authority(&HeaderMap::new()), "localhost");
    }
}
