//! The dashboard: a page at `/` of the admin port that draws slots, slices, memory and cold starts, and asks models.
//!
//! Plain files without a build step, compiled in; the page reads the port's own JSON and asks through the
//! [`playground`](crate::playground). **Invariant:** nothing comes from elsewhere and nothing is inline, which the headers let
//! browsers enforce; names of models and answers are foreign text, and become text nodes alone.

use axum::{Router, response::Response, routing::get};
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
};

use crate::answers;

/// What every file is served with.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
             frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
    ),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    // Another version of this program is another page.
    (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, type, content.
const FILES: [(&str, &str, &str); 8] = [
    ("/", HTML, include_str!("dashboard/index.html")),
    ("/dashboard.css", CSS, include_str!("dashboard/dashboard.css")),
    ("/dashboard.js", SCRIPT, include_str!("dashboard/dashboard.js")),
    ("/dashboard/dom.js", SCRIPT, include_str!("dashboard/dom.js")),
    ("/dashboard/slices.js", SCRIPT, include_str!("dashboard/slices.js")),
    ("/dashboard/slots.js", SCRIPT, include_str!("dashboard/slots.js")),
    ("/dashboard/cold_starts.js", SCRIPT, include_str!("dashboard/cold_starts.js")),
    ("/dashboard/playground.js", SCRIPT, include_str!("dashboard/playground.js")),
];

/// Every file of the page.
pub fn router() -> Router {
    FILES.into_iter().fold(Router::new(), |router, (path, content_type, content)| {
        router.route(path, get(async move || file(content_type, content)))
    })
}

fn file(content_type: &'static str, content: &'static str) -> Response {
    let mut response = answers::typed(StatusCode::OK, content_type, content);
    response.headers_mut().extend(HEADERS);
    response
}
