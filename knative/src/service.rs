//! The `serving.knative.dev/v1` Service itself.

use crate::spec::{ModelVolume, ServiceSpec};
use serde_json::{Map, Value, json};

/// A non-root user that no base image gives a meaning to.
const USER: u32 = 65532;

/// How long Kubernetes waits for the drain, less a margin for the answer to it.
const DRAIN_MARGIN_S: u32 = 5;

pub(crate) fn service(spec: &ServiceSpec) -> Value {
    let mut metadata = Map::from_iter([("name".to_owned(), json!(spec.name))]);
    if let Some(namespace) = &spec.namespace {
        metadata.insert("namespace".into(), json!(namespace));
    }
    metadata.insert("labels".into(), json!({ "app.kubernetes.io/name": "pilotlight" }));
    json!({
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": { "template": { "metadata": { "annotations": annotations(spec) }, "spec": pod(spec) } },
    })
}

fn annotations(spec: &ServiceSpec) -> Value {
    let scale = &spec.scale;
    let mut annotations = json!({
        "autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev",
        "autoscaling.knative.dev/metric": "concurrency",
        "autoscaling.knative.dev/min-scale": scale.min.to_string(),
        "autoscaling.knative.dev/max-scale": scale.max.to_string(),
        "autoscaling.knative.dev/window": format!("{}s", scale.window_s),
        "autoscaling.knative.dev/scale-to-zero-pod-retention-period": format!("{}s", scale.pod_retention_s),
    });
    if scale.drain_first {
        annotations["autoscaling.knative.dev/initial-scale"] = json!("0");
    }
    annotations
}

fn pod(spec: &ServiceSpec) -> Value {
    let mut pod = Map::new();
    pod.insert("containerConcurrency".into(), json!(spec.container_concurrency));
    pod.insert("timeoutSeconds".into(), json!(spec.timeouts.request_s));
    pod.insert("responseStartTimeoutSeconds".into(), json!(spec.timeouts.response_start_s));
    if spec.timeouts.idle_s > 0 {
        pod.insert("idleTimeoutSeconds".into(), json!(spec.timeouts.idle_s));
    }
    pod.insert("enableServiceLinks".into(), json!(false));
    place(spec, &mut pod);
    pod.insert("containers".into(), json!([container(spec)]));
    pod.insert("volumes".into(), volumes(spec));
    Value::Object(pod)
}

fn place(spec: &ServiceSpec, pod: &mut Map<String, Value>) {
    let placement = &spec.placement;
    if let Some(class) = &placement.runtime_class {
        pod.insert("runtimeClassName".into(), json!(class));
    }
    if !placement.node_selector.is_empty() {
        pod.insert("nodeSelector".into(), json!(placement.node_selector));
    }
    if !placement.tolerations.is_empty() {
        let tolerations = placement.tolerations.iter().map(|t| match &t.value {
            Some(value) => json!({ "key": t.key, "operator": "Equal", "value": value, "effect": t.effect }),
            None => json!({ "key": t.key, "operator": "Exists", "effect": t.effect }),
        });
        pod.insert("tolerations".into(), tolerations.collect());
    }
}

fn container(spec: &ServiceSpec) -> Value {
    // The activator listens where $PORT says, on every address, and Knative sets $PORT to the one container port.
    let arguments = [
        "serve".to_owned(),
        "--model".to_owned(),
        format!("{}={}", spec.model, spec.snapshot),
        "--idle".to_owned(),
        format!("{}s", spec.idle_s),
        "--drain-timeout".to_owned(),
        format!("{}s", spec.timeouts.request_s.saturating_sub(DRAIN_MARGIN_S).max(1)),
    ];
    json!({
        "name": "pilotlight",
        "image": spec.image,
        "args": arguments,
        "ports": [{ "containerPort": spec.port }],
        // An httpGet on the same port: an exec probe or a startup probe would cost Knative's early use of the pod.
        "readinessProbe": { "httpGet": { "path": "/readyz", "port": spec.port } },
        "livenessProbe": { "httpGet": { "path": "/livez", "port": spec.port } },
        "resources": resources(spec),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": mounts(spec),
    })
}

fn resources(spec: &ServiceSpec) -> Value {
    let mut limits = Map::new();
    limits.insert("cpu".into(), json!(spec.resources.cpu));
    limits.insert("memory".into(), json!(spec.resources.memory));
    let requests = limits.clone();
    if let Some(gpu) = &spec.resources.gpu {
        limits.insert(gpu.resource.clone(), json!(gpu.count.to_string()));
    }
    json!({ "requests": requests, "limits": limits })
}

fn mounts(spec: &ServiceSpec) -> Value {
    let temporary = json!({ "name": "tmp", "mountPath": "/tmp" });
    match &spec.volume {
        None => json!([temporary]),
        Some(ModelVolume::Claim { mount, .. } | ModelVolume::Image { mount, .. }) => {
            json!([temporary, { "name": "models", "mountPath": mount, "readOnly": true }])
        }
    }
}

fn volumes(spec: &ServiceSpec) -> Value {
    let temporary = json!({ "name": "tmp", "emptyDir": {} });
    match &spec.volume {
        None => json!([temporary]),
        Some(ModelVolume::Claim { claim, .. }) => {
            let source = json!({ "claimName": claim, "readOnly": true });
            json!([temporary, { "name": "models", "persistentVolumeClaim": source }])
        }
        Some(ModelVolume::Image { reference, .. }) => {
            json!([temporary, { "name": "models", "image": { "reference": reference } }])
        }
    }
}
