//! What the cluster must allow before it takes the service: the patches of Knative's own configuration.

use crate::spec::{ModelVolume, ServiceSpec};
use serde_json::{Map, Value, json};

/// Knative's `max-revision-timeout-seconds` as installed.
const REVISION_TIMEOUT_S_MAX: u32 = 600;

/// The needed `ConfigMap`s, none where an unmodified Knative takes the service as it is.
pub(crate) fn patches(spec: &ServiceSpec) -> Vec<Value> {
    let features = features(spec).into_iter().map(|name| (name.to_owned(), json!("enabled"))).collect();
    let mut defaults = Map::new();
    if spec.timeouts.request_s > REVISION_TIMEOUT_S_MAX {
        defaults.insert("max-revision-timeout-seconds".into(), json!(spec.timeouts.request_s.to_string()));
    }
    let mut autoscaler = Map::new();
    if spec.scale.drain_first {
        autoscaler.insert("allow-zero-initial-scale".into(), json!("true"));
    }
    [("config-features", features), ("config-defaults", defaults), ("config-autoscaler", autoscaler)]
        .into_iter()
        .filter(|(_, data)| !data.is_empty())
        .map(|(name, data)| config_map(name, data))
        .collect()
}

/// Feature flags that are off in an unmodified Knative and that this service needs.
fn features(spec: &ServiceSpec) -> Vec<&'static str> {
    let mut names = Vec::new();
    match &spec.volume {
        Some(ModelVolume::Claim { .. }) => names.push("kubernetes.podspec-persistent-volume-claim"),
        Some(ModelVolume::Image { .. }) => names.push("kubernetes.podspec-volumes-image"),
        None => {}
    }
    if !spec.placement.node_selector.is_empty() {
        names.push("kubernetes.podspec-nodeselector");
    }
    if !spec.placement.tolerations.is_empty() {
        names.push("kubernetes.podspec-tolerations");
    }
    if spec.placement.runtime_class.is_some() {
        names.push("kubernetes.podspec-runtimeclassname");
    }
    names
}

fn config_map(name: &str, data: Map<String, Value>) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": "knative-serving" },
        "data": data,
    })
}
