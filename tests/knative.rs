//! The rendered manifests, judged by Knative's and Kubernetes' published schemas.
#![allow(clippy::unwrap_used)]
mod support;

use knative::{Gpu, ModelVolume, Placement, ServiceSpec, Toleration, render};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const TOOL_MISSING: i32 = 69;

/// `None` after a named skip; otherwise whether the judges take it, and what they say.
fn judge(manifests: &str) -> Option<(bool, String)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("knative/validate");
    let mut command = Command::new(script);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(manifests.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(TOOL_MISSING) {
        support::tools::skip(&said);
        return None;
    }
    Some((output.status.success(), said))
}

fn accepted(manifests: &str) {
    if let Some((good, said)) = judge(manifests) {
        assert!(good, "{said}\n{manifests}");
    }
}

#[test]
fn the_committed_service_is_valid() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("knative/service.yaml");
    accepted(&std::fs::read_to_string(file).unwrap());
}

#[test]
fn a_service_with_every_optional_field_is_valid_together_with_its_patches() {
    let mut spec = ServiceSpec::new("big", "example.com/pilotlight:1", "big", "/models/big.snapshot");
    spec.namespace = Some("team".into());
    spec.volume = Some(ModelVolume::Claim { claim: "weights".into(), mount: "/models".into() });
    spec.resources.gpu = Some(Gpu { resource: "nvidia.com/mig-1g.10gb".into(), count: 1 });
    spec.timeouts.request_s = 1200;
    spec.timeouts.idle_s = 60;
    spec.scale.drain_first = true;
    spec.placement = Placement {
        node_selector: [("accelerator".to_owned(), "yes".to_owned())].into(),
        tolerations: vec![Toleration { key: "gpu".into(), value: Some("1".into()), effect: "NoSchedule".into() }],
        runtime_class: Some("nvidia".into()),
    };
    accepted(&render(&spec).unwrap());
    spec.volume = Some(ModelVolume::Image { reference: "example.com/weights:1".into(), mount: "/models".into() });
    accepted(&render(&spec).unwrap());
}

#[test]
fn the_judges_refuse_what_is_wrong() {
    let spec = ServiceSpec::new("tiny", "example.com/pilotlight:1", "tiny", "/models/tiny.snapshot");
    let good = render(&spec).unwrap();
    for (right, wrong, named) in [
        ("containerConcurrency: 8", "containerConcurrency: many", "containerConcurrency"),
        ("containerPort: 8080", "containerPort: http", "containerPort"),
        ("emptyDir:", "emptyDirectory:", "emptyDirectory"),
        ("enableServiceLinks: false", "hostNetwork: true", "hostNetwork"),
        ("template:", "templates:", "templates"),
    ] {
        assert!(good.contains(right), "{right}");
        let Some((taken, said)) = judge(&good.replacen(right, wrong, 1)) else { return };
        assert!(!taken && said.contains(named), "{wrong}: taken: {taken}: {said}");
    }
}
