//! Guests on their way into a snapshot or to a runtime: components and manifests → the section that carries them.
//!
//! A manifest is a TOML file with the fields of [`Spec`] and `component`, the component's path beside it:
//!
//! ```toml
//! component = "redact.wasm"     # or oci://REGISTRY/REPOSITORY@sha256:DIGEST
//! grants = ["host"]
//! on_failure = "closed"
//! replayable = true
//! config = { level = "strict" }
//! durable = false
//! budgets = { text_ms = 2 }
//! ```

use crate::{
    environment::Environment,
    exit::{Error, Result},
    progress::Progress,
};
use activator::Plugins;
use guests::{Bundle, Cache, Grant, Host, Spec};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use store::Store;

/// A manifest at most, in bytes.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;
/// A component at most, in bytes: what the host takes.
const COMPONENT_BYTES_MAX: u64 = 64 << 20;

#[derive(Deserialize)]
struct Manifest {
    component: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(flatten)]
    rest: toml::Table,
}

/// The section of these guests, compiled for this machine; `None` where there are none.
///
/// # Errors
/// A file is not there or too large; a manifest says what it cannot; a guest cannot be loaded with what it is granted.
pub fn section(files: &[PathBuf], environment: &Environment) -> Result<Option<Vec<u8>>> {
    if files.is_empty() {
        return Ok(None);
    }
    let found = files.iter().map(|file| read(file, environment)).collect::<Result<Vec<_>>>()?;
    let wrong = |error: guests::BundleError| Error::Usage(format!("--guest: {error}"));
    let host = Host::new().map_err(|error| Error::Usage(format!("--guest: {error}")))?;
    Ok(Some(Bundle::compile(&host, found).map_err(wrong)?.to_bytes()))
}

/// What requests of a model go through as it is served: these guests, compiled for this machine, once. `keeps`: there is a place for what durable
/// ones keep.
///
/// # Errors
/// As [`section`], and a durable one without a place; `field` says where they are named.
pub fn deploy(field: &str, files: &[PathBuf], keeps: bool, environment: &Environment) -> Result<Plugins> {
    let named = |error: &dyn std::fmt::Display| Error::Usage(format!("{field}: {error}"));
    let found = files.iter().map(|file| read(file, environment)).collect::<Result<Vec<_>>>()?;
    let homeless = |spec: &Spec| spec.durable && spec.grants.contains(&Grant::State) && !keeps;
    if let Some((spec, _)) = found.iter().find(|(spec, _)| homeless(spec)) {
        let why =
            "is durable, and there is no folder for what it keeps: give one (--kv-dir DIR), or say durable = false";
        return Err(named(&format_args!("the guest '{}' {why}", spec.name)));
    }
    let bundle = match found.is_empty() {
        true => Bundle::default(),
        false => {
            let host = Host::new().map_err(|error| named(&error))?;
            let compiled = match cache(environment)? {
                Some(cache) => Bundle::compile_once(&host, found, &cache),
                None => Bundle::compile(&host, found),
            };
            compiled.map_err(|error| named(&error))?
        }
    };
    Plugins::new(&bundle.to_bytes()).map_err(|error| Error::file("making memory for guests", error))
}

/// Where compiled guests are kept; `None`, and a warning, where there is no such place.
///
/// # Errors
/// There is one, and others could have put there what is to run here.
pub fn cache(environment: &Environment) -> Result<Option<Cache>> {
    let folder = match environment.cache() {
        Ok(folder) => folder.join("guests"),
        Err(error) => {
            tracing::warn!(%error, "compiled guests are not kept, and are compiled each time");
            return Ok(None);
        }
    };
    match Cache::open(&folder) {
        Ok(cache) => Ok(Some(cache)),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && folder.exists() => {
            Err(Error::file(format!("opening {}", folder.display()), error))
        }
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "compiled guests cannot be kept, and are compiled each time");
            Ok(None)
        }
    }
}

/// Files that a configuration names for its guests, as far as it can be understood: their manifests, and the components that those name.
pub fn named(configuration: &Path) -> Vec<PathBuf> {
    let Ok(file) = crate::configuration::read(configuration) else { return Vec::new() };
    let folder = crate::configuration::folder(configuration);
    let guests =
        file.models.values().filter_map(|model| model.guests.as_ref()).flatten().map(|file| from(&folder, file));
    let with_component = |file: PathBuf| {
        let component = component(&file).ok().flatten();
        std::iter::once(file).chain(component)
    };
    guests.filter(|file| !is_address(file)).flat_map(with_component).collect()
}

/// A guest's component and how it is deployed, out of its manifest or the component alone.
///
/// # Errors
/// As [`section`].
pub fn read(file: &Path, environment: &Environment) -> Result<(Spec, Vec<u8>)> {
    if is_address(file) {
        let address = file.to_string_lossy();
        // The repository's last word, without its digest.
        let repository = address.split('@').next().unwrap_or_default();
        return Ok((Spec::new(repository.rsplit('/').next().unwrap_or_default()), from_store(&address, environment)?));
    }
    if is_manifest(file) {
        return read_manifest(file, environment);
    }
    Ok((Spec::new(stem(file)), bytes(file, COMPONENT_BYTES_MAX)?))
}

/// Where guests of a configuration in this folder are.
pub fn from(folder: &Path, file: &Path) -> PathBuf {
    if is_address(file) { file.into() } else { folder.join(file) }
}

/// A guest in a registry, not a file.
fn is_address(file: &Path) -> bool {
    file.to_string_lossy().starts_with(store::SCHEME)
}

fn is_manifest(file: &Path) -> bool {
    !is_address(file) && file.extension().is_some_and(|ending| ending == "toml")
}

fn from_store(address: &str, environment: &Environment) -> Result<Vec<u8>> {
    let store = Store::open(&environment.store()?)?;
    let mut progress = Progress::new();
    let guest = store.guest(address, &mut |at| progress.at(&at.step, at.done, at.total))?;
    bytes(&guest.component, COMPONENT_BYTES_MAX)
}

/// The file of the component that a manifest names; `None` for one that is no manifest, or names one in a registry.
fn component(file: &Path) -> Result<Option<PathBuf>> {
    let named =
        is_manifest(file).then(|| manifest(file)).transpose()?.map(|manifest| beside(file, &manifest.component));
    Ok(named.filter(|component| !is_address(component)))
}

fn beside(file: &Path, component: &str) -> PathBuf {
    from(file.parent().unwrap_or(Path::new("")), Path::new(component))
}

fn manifest(file: &Path) -> Result<Manifest> {
    let wrong = |what: String| Error::Usage(format!("{}: {what}", file.display()));
    let text = String::from_utf8(bytes(file, MANIFEST_BYTES_MAX)?).map_err(|error| wrong(error.to_string()))?;
    toml::from_str(&text).map_err(|error| wrong(error.to_string()))
}

fn read_manifest(file: &Path, environment: &Environment) -> Result<(Spec, Vec<u8>)> {
    let wrong = |what: String| Error::Usage(format!("{}: {what}", file.display()));
    let Manifest { component, name, mut rest } = manifest(file)?;
    let name = name.unwrap_or_else(|| stem(file));
    rest.insert("name".into(), toml::Value::String(name));
    let spec = Spec::deserialize(rest).map_err(|error| wrong(error.to_string()))?;
    let component = beside(file, &component);
    match is_address(&component) {
        true => Ok((spec, from_store(&component.to_string_lossy(), environment)?)),
        false => Ok((spec, bytes(&component, COMPONENT_BYTES_MAX)?)),
    }
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn bytes(file: &Path, most: u64) -> Result<Vec<u8>> {
    let found = match std::fs::metadata(file) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::NoFile(file.into())),
        Err(error) => return Err(Error::file(format!("reading {}", file.display()), error)),
    };
    if found.len() > most {
        return Err(Error::Usage(format!("{} has {} bytes; the limit is {most}", file.display(), found.len())));
    }
    std::fs::read(file).map_err(|error| Error::file(format!("reading {}", file.display()), error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(text: &str) -> Result<(Spec, Vec<u8>)> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("g.wasm"), b"component").unwrap();
        std::fs::write(folder.path().join("mine.toml"), text).unwrap();
        read(&folder.path().join("mine.toml"), &Environment::default())
    }

    #[test]
    fn a_manifest_says_which_component_and_what_it_may_do() {
        let (spec, component) = of(
            "component = \"g.wasm\"\ngrants = [\"state\"]\non_failure = \"open\"\nreplayable = true\nbudgets = { text_ms = 7 }\nconfig = { a = \"b\" }",
        )
        .unwrap();
        assert_eq!((spec.name.as_str(), component.as_slice()), ("mine", &b"component"[..]));
        assert!(spec.replayable && spec.grants.contains(&guests::Grant::State));
        assert_eq!((spec.budgets.text_ms, spec.budgets.request_ms, spec.config["a"].as_str()), (7, 50, "b"));
        assert_eq!(of("component = \"g.wasm\"\nname = \"other\"").unwrap().0.name, "other");
    }

    #[test]
    fn what_a_manifest_cannot_say_is_told_by_field() {
        let told = |text: &str| of(text).unwrap_err().to_string();
        assert!(told("name = \"x\"").contains("component"));
        assert!(told("component = \"g.wasm\"\ngrant = []").contains("grant"));
        assert!(told("component = \"g.wasm\"\ngrants = [\"network\"]").contains("network"));
        assert!(told("component = \"g.wasm\"\nbudgets = { text = 1 }").contains("text"));
        assert!(told("component = \"nowhere.wasm\"").contains("nowhere.wasm"));
    }
}
