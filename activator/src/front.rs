//! The API port as connections see it. Nearly all that comes is a request that is to be forwarded, and would pay for every layer of a router on its
//! way: so those paths are known here, and everything else is the router's.

use std::{convert::Infallible, sync::Arc};

use axum::response::Response;
use http::{Method, Request};
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::service::TowerToHyperService;

use crate::{
    api::{self, Api},
    probes::Readiness,
    server::Serves,
    traffic::Watch,
};

/// What answers on the API port.
pub fn service(api: Arc<Api>, readiness: Readiness) -> impl Serves {
    let watch = Watch::new(api.metrics.clone(), readiness.clone());
    let router = TowerToHyperService::new(api::router(api.clone(), readiness));
    let behind = Arc::new((api, watch, router));
    service_fn(move |request: Request<Incoming>| {
        let behind = behind.clone();
        async move {
            let (api, watch, router) = &*behind;
            let asked = api::FORWARDED.iter().find(|asked| asked.path == request.uri().path());
            let Some(asked) = asked.filter(|_| request.method() == Method::POST) else {
                // Boxed, so that what is forwarded does not have its size.
                return Box::pin(router.call(request)).await;
            };
            if let Some(answer) = watch.answer_at_once(&request) {
                return Ok(answer);
            }
            let seen = Watch::look(&request);
            let (answer, route) = api.forward(request, asked).await;
            Ok::<Response, Infallible>(watch.leave(seen, answer, route.as_ref()))
        }
    })
}
