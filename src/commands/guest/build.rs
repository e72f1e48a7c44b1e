//! `guest build`: a guest's sources → its component, by the script that the SDK's own examples are built with.

use crate::{
    cli::GuestBuild,
    environment::Environment,
    exit::{Error, Result},
    output,
};
use serde::Deserialize;
use std::{io::Write, path::Path, process::Command};

const SCRIPT: &str = include_str!("../../../guest-sdk/build-guest");

#[derive(Deserialize)]
struct Cargo {
    package: Package,
}

#[derive(Deserialize)]
struct Package {
    name: String,
}

/// Builds, and prints the component's path.
pub fn build(args: &GuestBuild, environment: &Environment) -> Result<()> {
    let name = name(&args.folder)?;
    let out = args.folder.join(format!("{name}.wasm"));
    let mut script = tempfile::NamedTempFile::new()?;
    script.write_all(SCRIPT.as_bytes())?;
    let mut command = Command::new("bash");
    command.arg(script.path()).arg(&args.folder).arg(&out).stdout(std::process::Stdio::null());
    if std::env::var_os("CARGO_TARGET_DIR").is_none() {
        command.env("CARGO_TARGET_DIR", std::path::absolute(args.folder.join("target"))?);
    }
    if std::env::var_os("PILOTLIGHT_GUEST_TOOLS").is_none() {
        command.env("PILOTLIGHT_GUEST_TOOLS", environment.cache()?.join("guest-toolchain"));
    }
    let status = command.status().map_err(|error| Error::Unavailable(format!("bash cannot be run: {error}")))?;
    match status.code() {
        Some(0) => output::line(out.display()),
        // It has said why.
        Some(69) => Err(Error::Unavailable("no toolchain for WebAssembly can be had here".into())),
        _ => Err(Error::Data(format!("{} cannot be built", args.folder.display()))),
    }
}

fn name(folder: &Path) -> Result<String> {
    let file = folder.join("Cargo.toml");
    if !file.exists() {
        return Err(Error::Usage(format!("{} is no guest's folder: there is no {}", folder.display(), file.display())));
    }
    let text =
        std::fs::read_to_string(&file).map_err(|error| Error::file(format!("reading {}", file.display()), error))?;
    let cargo: Cargo = toml::from_str(&text).map_err(|error| Error::Data(format!("{}: {error}", file.display())))?;
    Ok(cargo.package.name)
}
