//! W3C's trace context, as clients send it and runtimes get it.
//!
//! **Invariant:** a `traceparent` that is not exactly as the standard has it was never there, nor was a `tracestate` beside it.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{Context, propagation::TextMapPropagator};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// What a client says; an empty context where it says nothing, or nonsense.
pub fn parent(headers: &HeaderMap) -> Context {
    let mut said = headers.get_all(TRACEPARENT).iter();
    let context = Context::new();
    match (said.next(), said.next()) {
        (Some(one), None) if is_well_formed(one) => {
            TraceContextPropagator::new().extract_with_context(&context, &HeaderExtractor(headers))
        }
        (Some(_) | None, _) => context,
    }
}

/// Says to a runtime whose child it is, in place of what the client said.
pub fn tell(context: &Context, headers: &mut HeaderMap) {
    headers.remove(TRACEPARENT);
    headers.remove(TRACESTATE);
    TraceContextPropagator::new().inject_context(context, &mut HeaderInjector(headers));
    // An empty one says nothing.
    if headers.get(TRACESTATE).is_some_and(HeaderValue::is_empty) {
        headers.remove(TRACESTATE);
    }
}

/// Its shape; that no id is zero is for the library to see. Later versions may have more behind it.
fn is_well_formed(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    let (Some(head), rest) = (bytes.get(..LENGTH), bytes.get(LENGTH..).unwrap_or_default()) else { return false };
    let dashes = [2, 35, 52];
    let shaped = head.iter().enumerate().all(|(at, byte)| match dashes.contains(&at) {
        true => *byte == b'-',
        false => byte.is_ascii_digit() || (b'a'..=b'f').contains(byte),
    });
    let version = &head[..2];
    shaped && version != b"ff" && (rest.is_empty() || (version != b"00" && rest[0] == b'-'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use opentelemetry::trace::TraceContextExt;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn begun_by(pairs: &[(HeaderName, &str)]) -> Option<String> {
        let context = parent(&headers(pairs));
        let span = context.span();
        let said = span.span_context();
        said.is_valid().then(|| format!("{} {} {}", said.trace_id(), said.span_id(), said.is_sampled()))
    }

    #[test]
    fn a_clients_context_is_read_and_nonsense_is_not() {
        let of = |text: &str| begun_by(&[(TRACEPARENT, text)]);
        let ids = "0af7651916cd43dd8448eb211c80319c b7ad6b7169203331";
        assert_eq!(of(GOOD), Some(format!("{ids} true")));
        assert_eq!(of(&GOOD.replace("-01", "-00")), Some(format!("{ids} false")));
        assert_eq!(of(&GOOD.replace("00-", "cc-").replace("-01", "-01-what")), Some(format!("{ids} true")));
        let nonsense = [
            "".into(),
            "00-1-2-01".into(),
            GOOD.to_uppercase(),
            GOOD.replace("00-", "ff-"),
            GOOD.replace('-', "_"),
            format!("{GOOD}-more"),
            format!("{GOOD}0"),
            GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            GOOD.replace('0', "+"),
        ];
        for text in nonsense {
            assert_eq!(of(&text), None, "{text}");
        }
        assert_eq!(begun_by(&[]), None);
        assert_eq!(begun_by(&[(TRACEPARENT, GOOD), (TRACEPARENT, GOOD)]), None, "two are none");
    }

    #[test]
    fn what_is_told_takes_the_place_of_what_was_said() {
        let said = headers(&[(TRACEPARENT, GOOD), (TRACESTATE, "vendor=1")]);
        let mut told = headers(&[(TRACEPARENT, "nonsense"), (TRACESTATE, "other=2")]);
        tell(&parent(&said), &mut told);
        assert_eq!(told, said);
        tell(&Context::new(), &mut told);
        assert_eq!(told, HeaderMap::new());
        tell(&parent(&headers(&[(TRACEPARENT, GOOD)])), &mut told);
        assert_eq!(told, headers(&[(TRACEPARENT, GOOD)]));
    }
}
