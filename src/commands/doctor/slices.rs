//! Slices that `serve` would find where its configuration names none: the machine, and the GPUs that `--device cuda` would put runtimes on.

use crate::{environment::Environment, output};
use activator::slices::{self, Slice, SliceError, nvml::NvmlError};
use serde_json::{Value, json};

/// What there is; what there is and fails joins `missing`.
pub fn slices(environment: &Environment, missing: &mut Vec<String>) -> Value {
    let find = |gpu| slices::inventory(&[], &environment.devices, gpu, environment.nvml_library.as_deref());
    let machine: Vec<Slice> = find(false).unwrap_or_default();
    let gpus = find(true).unwrap_or_else(|error| {
        // A machine without a GPU lacks nothing.
        if !matches!(error, SliceError::Nvml(NvmlError::Unavailable { .. }) | SliceError::KeptBack(_)) {
            missing.push(format!("slices of GPUs: {error}"));
        }
        Vec::new()
    });
    json!([machine, gpus].concat())
}

/// `cpu: all cores, 24 GiB`
pub fn words(slice: &Value) -> String {
    let name = slice["name"].as_str().unwrap_or_default();
    let bytes = slice["bytes"].as_u64().map_or_else(|| "memory unknown".into(), output::bytes);
    let what = slice["device"].as_str().map_or_else(|| "all cores".to_owned(), |device| format!("device {device}"));
    format!("{name}: {what}, {bytes}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn without_nvml() -> Environment {
        let mut environment = Environment::default();
        environment.nvml_library = Some("/nowhere/nvml.so".into());
        environment
    }

    #[test]
    fn the_machine_is_a_slice_and_a_library_that_is_not_there_is_nothing_missing() {
        let mut missing = Vec::new();
        let found = slices(&without_nvml(), &mut missing);
        assert_eq!((found.as_array().unwrap().len(), &found[0]["kind"], missing), (1, &json!("cpu"), vec![]));
        assert!(words(&found[0]).starts_with("cpu: all cores, "), "{}", words(&found[0]));
    }

    #[test]
    fn what_the_environment_names_and_nobody_knows_is_missing() {
        let mut environment = without_nvml();
        environment.devices.nvidia = Some("MIG-1".into());
        let mut missing = Vec::new();
        slices(&environment, &mut missing);
        assert!(missing.len() == 1 && missing[0].contains("MIG-1"), "{missing:?}");
    }
}
