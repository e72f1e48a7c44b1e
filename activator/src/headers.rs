//! Which headers cross the activator.
//!
//! Kept as they came: `Host`, `Forwarded`, `X-Forwarded-*`, `traceparent`, `K-Proxy-Request` and all the rest. Gone: what
//! belongs to one connection (RFC 9110, 7.6.1), and what only Knative or we may say.

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
    uri::Authority,
};
use protocol::{resume, steps, timings, usage};
use smallvec::SmallVec;

/// Prefixes of headers that a client may not set.
const INTERNAL: [&str; 2] = ["knative-serving-", "pilotlight-"];

static OF_ONE_CONNECTION: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Of a request, beside those: who somebody is has been settled, and is nobody else's to know; and the body is sent as it was read, and says its
/// length itself.
static OF_A_CLIENT: [HeaderName; 3] = [AUTHORIZATION, CONTENT_LENGTH, EXPECT];

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

/// What a runtime tells us of an answer.
pub static INTERRUPTED: HeaderName = HeaderName::from_static(resume::INTERRUPTED_HEADER);
/// The same.
pub static GUESTS: HeaderName = HeaderName::from_static(resume::GUESTS_HEADER);
/// The same.
pub static IDENTITY: HeaderName = HeaderName::from_static(resume::IDENTITY_HEADER);
/// The same.
pub static USED: HeaderName = HeaderName::from_static(usage::USED_HEADER);
/// The same.
pub static STEPS: HeaderName = HeaderName::from_static(steps::STEPS_HEADER);

/// A client's headers, for the runtime. What HTTP/2 says as `:authority` is said as `Host`, as HTTP/1.1 does.
pub fn to_runtime(mut headers: HeaderMap, authority: Option<&Authority>) -> HeaderMap {
    if let (false, Some(Ok(host))) = (headers.contains_key(HOST), authority.map(|it| it.as_str().parse())) {
        headers.insert(HOST, host);
    }
    strip(&mut headers, &OF_A_CLIENT);
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
    strip(&mut headers, &[]);
    headers
}

/// Takes away what is of one connection, what is internal, and these.
fn strip(headers: &mut HeaderMap, these: &[HeaderName]) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    let known = |name: &HeaderName| OF_ONE_CONNECTION.contains(name) || these.contains(name);
    let internal = |name: &HeaderName| INTERNAL.iter().any(|prefix| name.as_str().starts_with(prefix));
    let gone: SmallVec<[HeaderName; 4]> =
        headers.keys().filter(|name| known(name) || internal(name)).cloned().collect();
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
