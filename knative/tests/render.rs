//! What [`knative::render`] says for the services that the repository ships and for each optional field.
#![allow(clippy::unwrap_used)]

use knative::{Error, Gpu, ModelVolume, Placement, ServiceSpec, Toleration, render};
use std::path::Path;

#[path = "../examples/smollm2.rs"]
mod smollm2;

fn spec() -> ServiceSpec {
    ServiceSpec::new("tiny", "example.com/pilotlight:1", "tiny", "/models/tiny.snapshot")
}

fn check(change: impl FnOnce(&mut ServiceSpec), expected: &[&str]) {
    let mut spec = spec();
    change(&mut spec);
    let text = render(&spec).unwrap();
    for line in expected {
        assert!(text.lines().any(|found| found.trim() == *line), "no line {line:?} in\n{text}");
    }
}

fn refused(change: impl FnOnce(&mut ServiceSpec), field: &str) {
    let mut spec = spec();
    change(&mut spec);
    match render(&spec) {
        Err(Error { field: found, .. }) => assert_eq!(found, field),
        Ok(text) => panic!("{field} was not refused:\n{text}"),
    }
}

#[test]
fn service_yaml_in_the_repository_is_the_rendering_for_smollm2() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("service.yaml");
    let rendered = render(&smollm2::spec()).unwrap();
    let committed = std::fs::read_to_string(&file).unwrap();
    assert_eq!(committed, rendered, "run: cargo run -p knative --example smollm2 > knative/service.yaml");
}

#[test]
fn smollm2_needs_no_patch_of_an_unmodified_knative() {
    let text = render(&smollm2::spec()).unwrap();
    assert!(!text.contains("ConfigMap"), "{text}");
}

#[test]
fn exactly_one_port_and_probes_by_http_on_it() {
    let text = render(&spec()).unwrap();
    assert_eq!(text.matches("containerPort:").count(), 1);
    assert!(
        text.contains("readinessProbe:\n            httpGet:\n              path: /readyz\n              port: 8080\n")
    );
    assert!(!text.contains("exec:") && !text.contains("startupProbe"));
}

#[test]
fn annotations_are_strings_as_kubernetes_wants_them() {
    check(
        |s| (s.scale.min, s.scale.max, s.scale.window_s) = (1, 3, 90),
        &[
            "autoscaling.knative.dev/min-scale: \"1\"",
            "autoscaling.knative.dev/max-scale: \"3\"",
            "autoscaling.knative.dev/window: \"90s\"",
        ],
    );
}

#[test]
fn a_mig_slice_is_a_limit() {
    let gpu = Gpu { resource: "nvidia.com/mig-1g.10gb".into(), count: 1 };
    check(|s| s.resources.gpu = Some(gpu), &["nvidia.com/mig-1g.10gb: \"1\""]);
}

#[test]
fn a_claim_is_mounted_read_only_and_its_feature_flag_is_patched() {
    let volume = ModelVolume::Claim { claim: "weights".into(), mount: "/models".into() };
    check(
        |s| s.volume = Some(volume),
        &["kubernetes.podspec-persistent-volume-claim: enabled", "claimName: weights", "readOnly: true"],
    );
}

#[test]
fn an_image_volume_is_mounted_and_its_feature_flag_is_patched() {
    let volume = ModelVolume::Image { reference: "example.com/m:1".into(), mount: "/models".into() };
    let expected = ["kubernetes.podspec-volumes-image: enabled", "reference: example.com/m:1"];
    check(|s| s.volume = Some(volume), &expected);
}

#[test]
fn placement_patches_one_feature_flag_for_each_field() {
    let placement = Placement {
        node_selector: [("gpu".to_owned(), "yes".to_owned())].into(),
        tolerations: vec![Toleration { key: "nvidia.com/gpu".into(), value: None, effect: "NoSchedule".into() }],
        runtime_class: Some("nvidia".into()),
    };
    check(
        |s| s.placement = placement,
        &[
            "kubernetes.podspec-nodeselector: enabled",
            "kubernetes.podspec-tolerations: enabled",
            "kubernetes.podspec-runtimeclassname: enabled",
            "gpu: \"yes\"",
            "- key: nvidia.com/gpu",
            "operator: Exists",
            "runtimeClassName: nvidia",
        ],
    );
}

#[test]
fn a_timeout_over_the_cluster_limit_patches_the_limit() {
    check(|s| s.timeouts.request_s = 1200, &["max-revision-timeout-seconds: \"1200\"", "timeoutSeconds: 1200"]);
}

#[test]
fn a_rollout_that_drains_first_needs_no_second_slice_and_patches_what_allows_it() {
    let expected = ["autoscaling.knative.dev/initial-scale: \"0\"", "allow-zero-initial-scale: \"true\""];
    check(|s| s.scale.drain_first = true, &expected);
}

#[test]
fn what_the_cluster_would_refuse_is_refused_by_the_field_s_name() {
    refused(|s| s.name = "Tiny".into(), "name");
    refused(|s| s.name = "a".repeat(64), "name");
    refused(|s| s.namespace = Some("-x".into()), "namespace");
    refused(|s| s.image = "a b".into(), "image");
    refused(|s| s.model = "a=b".into(), "model");
    refused(|s| s.snapshot = "relative".into(), "snapshot");
    refused(|s| s.idle_s = 0, "idle_s");
    refused(|s| s.port = 8012, "port");
    refused(|s| s.scale.window_s = 5, "scale.window_s");
    refused(|s| (s.scale.min, s.scale.max) = (3, 2), "scale.min");
    refused(|s| s.timeouts.response_start_s = 601, "timeouts.response_start_s");
    refused(|s| s.resources.memory = "1 GB".into(), "resources.memory");
    refused(|s| s.resources.cpu = "-1".into(), "resources.cpu");
    refused(|s| s.resources.gpu = Some(Gpu { resource: "gpu".into(), count: 1 }), "resources.gpu.resource");
    refused(|s| s.volume = Some(ModelVolume::Claim { claim: "c".into(), mount: "/m".into() }), "snapshot");
}
