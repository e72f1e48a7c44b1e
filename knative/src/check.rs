//! Refuses what Knative or Kubernetes would refuse, by the field's name, before anything is rendered.

use crate::spec::{ModelVolume, ServiceSpec};

/// Ports that Knative's own sidecar or a node's agents bind.
const RESERVED_PORTS: [u16; 7] = [8008, 8012, 8013, 8022, 8112, 9090, 9091];

/// Kubernetes: a label's length (RFC 1123).
const LABEL_BYTES_MAX: usize = 63;

/// Knative: bounds of `autoscaling.knative.dev/window`, in seconds.
const WINDOW_S: std::ops::RangeInclusive<u32> = 6..=3600;

/// A field whose value the cluster would refuse.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value:?}: {rule}")]
pub struct Error {
    /// The field, as spelled in a [`ServiceSpec`].
    pub field: &'static str,
    /// What it is.
    pub value: String,
    /// What it may be.
    pub rule: &'static str,
}

pub(crate) fn check(spec: &ServiceSpec) -> Result<(), Error> {
    const LABEL: &str = "a DNS label: a letter, then letters, digits and hyphens in lower case, at most 63";
    rule(is_label(&spec.name), "name", &spec.name, LABEL)?;
    if let Some(namespace) = &spec.namespace {
        rule(is_label(namespace), "namespace", namespace, LABEL)?;
    }
    rule(is_word(&spec.image), "image", &spec.image, "an image reference without spaces")?;
    rule(is_word(&spec.model) && !spec.model.contains('='), "model", &spec.model, "a name without spaces and '='")?;
    rule(is_path(&spec.snapshot), "snapshot", &spec.snapshot, "an absolute path without spaces")?;
    rule(spec.idle_s > 0, "idle_s", spec.idle_s, "at least 1 second")?;
    rule(spec.port != 0 && !RESERVED_PORTS.contains(&spec.port), "port", spec.port, "a port that Knative leaves free")?;
    check_volume(spec)?;
    check_scale(spec)?;
    check_timeouts(spec)?;
    check_resources(spec)?;
    check_placement(spec)
}

fn check_volume(spec: &ServiceSpec) -> Result<(), Error> {
    let mount = match &spec.volume {
        None => return Ok(()),
        Some(ModelVolume::Claim { claim, mount }) => {
            rule(is_word(claim), "volume.claim", claim, "a claim's name")?;
            mount
        }
        Some(ModelVolume::Image { reference, mount }) => {
            rule(is_word(reference), "volume.reference", reference, "an image reference without spaces")?;
            mount
        }
    };
    rule(is_path(mount) && mount != "/tmp", "volume.mount", mount, "an absolute path other than / and /tmp")?;
    let inside = spec.snapshot.strip_prefix(mount.as_str()).is_some_and(|rest| rest.starts_with('/'));
    rule(inside, "snapshot", &spec.snapshot, "a path inside volume.mount")
}

fn check_scale(spec: &ServiceSpec) -> Result<(), Error> {
    let scale = &spec.scale;
    rule(scale.max == 0 || scale.min <= scale.max, "scale.min", scale.min, "at most scale.max")?;
    rule(WINDOW_S.contains(&scale.window_s), "scale.window_s", scale.window_s, "6 to 3600 seconds")
}

fn check_timeouts(spec: &ServiceSpec) -> Result<(), Error> {
    let timeouts = &spec.timeouts;
    rule(timeouts.request_s > 0, "timeouts.request_s", timeouts.request_s, "at least 1 second")?;
    let bounded = |seconds: u32| seconds <= timeouts.request_s;
    let at_most = "at most timeouts.request_s";
    rule(bounded(timeouts.response_start_s), "timeouts.response_start_s", timeouts.response_start_s, at_most)?;
    rule(bounded(timeouts.idle_s), "timeouts.idle_s", timeouts.idle_s, at_most)
}

fn check_resources(spec: &ServiceSpec) -> Result<(), Error> {
    const QUANTITY: &str = "a Kubernetes quantity such as 2, 500m, 1Gi";
    let resources = &spec.resources;
    rule(is_quantity(&resources.cpu), "resources.cpu", &resources.cpu, QUANTITY)?;
    rule(is_quantity(&resources.memory), "resources.memory", &resources.memory, QUANTITY)?;
    let Some(gpu) = &resources.gpu else { return Ok(()) };
    let named = gpu.resource.contains('/') && is_word(&gpu.resource);
    rule(named, "resources.gpu.resource", &gpu.resource, "a device plugin's name such as nvidia.com/gpu")?;
    rule(gpu.count > 0, "resources.gpu.count", gpu.count, "at least 1")
}

fn check_placement(spec: &ServiceSpec) -> Result<(), Error> {
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    for toleration in &spec.placement.tolerations {
        let effect = toleration.effect.as_str();
        let known = EFFECTS.contains(&effect);
        rule(known, "placement.tolerations.effect", effect, "NoSchedule, PreferNoSchedule or NoExecute")?;
        rule(is_word(&toleration.key), "placement.tolerations.key", &toleration.key, "a taint's key")?;
    }
    Ok(())
}

fn rule(holds: bool, field: &'static str, value: impl ToString, rule: &'static str) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error { field, value: value.to_string(), rule }) }
}

fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.len() <= LABEL_BYTES_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(inner)
        && !text.ends_with('-')
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic())
}

fn is_path(text: &str) -> bool {
    is_word(text) && text.len() > 1 && text.starts_with('/') && !text.ends_with('/') && !text.contains("/../")
}

/// A positive number and a suffix of the kinds that Kubernetes documents.
fn is_quantity(text: &str) -> bool {
    const SUFFIXES: [&str; 13] = ["", "m", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "Pi", "E"];
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number = digits.chars().all(|c| c.is_ascii_digit() || c == '.') && digits.parse::<f64>().is_ok_and(|n| n > 0.0);
    number && SUFFIXES.contains(&&text[digits.len()..])
}
