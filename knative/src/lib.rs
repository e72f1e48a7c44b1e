//! Manifests for an unmodified Knative: from what an operator wants to say about one model's service to the YAML to commit.
//!
//! **Invariant:** knows no cluster and does no I/O: text out of values, the same text for the same values. Whatever a
//! manifest needs that a Knative does not allow by default is rendered too, as a patch, never left to be found out.
//!
//! The one container of the service is the activator, which starts and ends runtimes within the pod; Knative scales pods.

mod check;
mod patches;
mod service;
mod spec;
mod yaml;

pub use check::Error;
pub use spec::{Gpu, ModelVolume, Placement, Resources, Scale, ServiceSpec, Timeouts, Toleration};

/// Renders a service and, where the cluster must be told something first, the patches before it.
///
/// The documents are separated by `---`. Patches are whole `ConfigMap`s that hold only the keys that matter, so that
/// `kubectl apply --server-side` merges them into what the cluster has.
///
/// # Errors
/// Names the first field that Knative or Kubernetes would refuse.
pub fn render(spec: &ServiceSpec) -> Result<String, Error> {
    check::check(spec)?;
    let documents = patches::patches(spec).into_iter().chain([service::service(spec)]);
    Ok(documents.map(|document| yaml::to_string(&document)).collect::<Vec<_>>().join("---\n"))
}
