//! The Service of the default model: `cargo run -p knative --example smollm2 > knative/service.yaml`.

use knative::{Scale, ServiceSpec};

/// SmolLM2 in the image that `knative/image` builds: the snapshot is inside, so that no cluster needs a volume for it.
pub fn spec() -> ServiceSpec {
    let mut spec =
        ServiceSpec::new("smollm2", "localhost/pilotlight-smollm2:latest", "smollm2", "/models/smollm2.snapshot");
    spec.scale = Scale { min: 0, max: 1, ..Scale::default() };
    spec
}

#[allow(dead_code, reason = "the tests use only the specification")]
fn main() -> Result<(), knative::Error> {
    print!("{}", knative::render(&spec())?);
    Ok(())
}
