//! The API port as connections see it. Nearly all that comes is a request that is to be forwarded, and would pay for every layer of a router on its
//! way: so those paths are known here, and everything else is the router's.

use std::{convert::Infallible, pin::Pin, sync::Arc};

use axum::{Router, response::Response};
use http::{Method, Request};
use hyper::{body::Incoming, service::Service};
use hyper_util::service::TowerToHyperService;

use crate::{
    api::{self, Api},
    probes::Readiness,
    traffic::Watch,
};

/// Cheap to clone.
#[derive(Clone)]
pub struct Front(Arc<Behind>);

struct Behind {
    api: Arc<Api>,
    watch: Watch,
    router: TowerToHyperService<Router>,
}

impl Front {
    /// Before this.
    pub fn new(api: Arc<Api>, readiness: Readiness) -> Self {
        let watch = Watch::new(api.metrics.clone(), readiness.clone());
        let router = TowerToHyperService::new(api::router(api.clone(), readiness));
        Self(Arc::new(Behind { api, watch, router }))
    }
}

impl Service<Request<Incoming>> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let asked = api::FORWARDED.iter().find(|asked| asked.path == request.uri().path());
        match asked.filter(|_| request.method() == Method::POST) {
            Some(asked) => {
                let behind = self.0.clone();
                Box::pin(async move {
                    Ok(behind.watch.receive(request, |request| behind.api.forward(request, asked)).await)
                })
            }
            None => Box::pin(self.0.router.call(request)),
        }
    }
}
