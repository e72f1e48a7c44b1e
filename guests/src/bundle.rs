//! Guests as a snapshot carries them, or an activator hands them over: specs, components, and what they were compiled to.
//!
//! ```text
//! u64 LE   length of the index
//! JSON     {"guests": [{"spec", "digest", "component": [from, to], "compiled": {"for", "range": [from, to]}}]}
//! bytes    what the ranges point into, from here on
//! ```
//!
//! **Invariant:** foreign bytes: every length and range is checked, and digests are those of the components. Compiled code is taken as such; a
//! snapshot that carries it is as trusted as the program that runs it, and its seal is what vouches for it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{
    cache::Cache,
    host::{Host, LoadError, digest},
    plugin::Plugin,
    spec::Spec,
};

/// Guests of one model at most.
const GUESTS_MAX: usize = 16;
/// A guest's name at most, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// The index at most, in bytes.
const INDEX_BYTES_MAX: usize = 1 << 20;

/// What is wrong with a bundle, or with a guest in it.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Its bytes.
    #[error("the guests section: {0}")]
    Malformed(String),
    /// A guest.
    #[error("the guest '{name}': {error}")]
    Guest {
        /// Which.
        name: String,
        /// Why it cannot be loaded.
        error: LoadError,
    },
}

/// One guest of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundled {
    /// How it is deployed.
    pub spec: Spec,
    /// The component.
    pub component: Vec<u8>,
    /// Which engine it was compiled for ([`Host::compatibility`]), and to what.
    pub compiled: Option<(String, Vec<u8>)>,
}

/// Guests, in the order of their chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// See [`Bundled`].
    pub guests: Vec<Bundled>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    guests: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    spec: Spec,
    digest: String,
    component: [u64; 2],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    compiled: Option<Compiled>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Compiled {
    r#for: String,
    range: [u64; 2],
}

impl Bundle {
    /// Compiles each guest for this host and sees that it can be loaded.
    ///
    /// # Errors
    /// One cannot, or there are more than 16, or two of one name.
    pub fn compile(host: &Host, guests: Vec<(Spec, Vec<u8>)>) -> Result<Self, BundleError> {
        let compile =
            |spec: &Spec, component: &[u8]| host.load(spec.clone(), component).and_then(|_| host.compile(component));
        Self::with(host, guests, compile)
    }

    /// The same, with what was compiled before out of this cache.
    ///
    /// # Errors
    /// As [`Bundle::compile`].
    pub fn compile_once(host: &Host, guests: Vec<(Spec, Vec<u8>)>, cache: &Cache) -> Result<Self, BundleError> {
        Self::with(host, guests, |spec, component| cache.compile(host, spec, component))
    }

    fn with(
        host: &Host,
        guests: Vec<(Spec, Vec<u8>)>,
        code: impl Fn(&Spec, &[u8]) -> Result<Vec<u8>, LoadError>,
    ) -> Result<Self, BundleError> {
        check_names(guests.iter().map(|(spec, _)| spec))?;
        let here = host.compatibility();
        let compile = |(spec, component): (Spec, Vec<u8>)| {
            let code =
                code(&spec, &component).map_err(|error| BundleError::Guest { name: spec.name.clone(), error })?;
            Ok(Bundled { spec, component, compiled: Some((here.clone(), code)) })
        };
        Ok(Self { guests: guests.into_iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// As bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut blobs = Vec::new();
        let mut put = |bytes: &[u8]| {
            let from = blobs.len() as u64;
            blobs.extend_from_slice(bytes);
            [from, blobs.len() as u64]
        };
        let entry = |guest: &Bundled| Entry {
            spec: guest.spec.clone(),
            digest: digest(&guest.component),
            component: put(&guest.component),
            compiled: guest.compiled.as_ref().map(|(r#for, code)| Compiled { r#for: r#for.clone(), range: put(code) }),
        };
        let index = Index { guests: self.guests.iter().map(entry).collect() };
        let index = serde_json::to_vec(&index).expect("strings and numbers serialise");
        [&(index.len() as u64).to_le_bytes()[..], &index, &blobs].concat()
    }

    /// From bytes.
    ///
    /// # Errors
    /// What is wrong with them, and where.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BundleError> {
        let malformed = |what: String| BundleError::Malformed(what);
        let (length, rest) = bytes.split_first_chunk().ok_or_else(|| malformed("it is shorter than 8 bytes".into()))?;
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > INDEX_BYTES_MAX {
            return Err(malformed(format!("its index has {length} bytes; the limit is {INDEX_BYTES_MAX}")));
        }
        let (index, blobs) =
            rest.split_at_checked(length).ok_or_else(|| malformed(format!("its index of {length} bytes is cut")))?;
        let index: Index = serde_json::from_slice(index).map_err(|error| malformed(format!("its index: {error}")))?;
        check_names(index.guests.iter().map(|entry| &entry.spec))?;
        let blob = |name: &str, [from, to]: [u64; 2]| {
            let range = usize::try_from(from)
                .ok()
                .zip(usize::try_from(to).ok())
                .map(|(from, to)| Range { start: from, end: to });
            let found = range.and_then(|range| blobs.get(range)).map(<[u8]>::to_vec);
            found.ok_or_else(|| malformed(format!("the guest '{name}' is at {from} to {to} of {} bytes", blobs.len())))
        };
        let guest = |entry: Entry| {
            let component = blob(&entry.spec.name, entry.component)?;
            if digest(&component) != entry.digest {
                return Err(malformed(format!("the guest '{}' is not what its digest says", entry.spec.name)));
            }
            let compiled = entry.compiled.map(|compiled| Ok((compiled.r#for, blob(&entry.spec.name, compiled.range)?)));
            Ok(Bundled { compiled: compiled.transpose()?, spec: entry.spec, component })
        };
        Ok(Self { guests: index.guests.into_iter().map(guest).collect::<Result<_, _>>()? })
    }

    /// Loads them, from what they were compiled to where that is for this host; else they are compiled now, with a warning.
    ///
    /// # Errors
    /// A guest cannot be loaded.
    ///
    /// # Safety
    /// Compiled code in it is what [`Host::compile`] returned: the bundle comes from a seal that is trusted to run code here.
    pub unsafe fn load(self, host: &Host) -> Result<Vec<Plugin>, BundleError> {
        let here = host.compatibility();
        let load = |guest: Bundled| {
            let Bundled { spec, component, compiled } = guest;
            let name = spec.name.clone();
            let loaded = match compiled {
                // SAFETY: the caller's promise.
                Some((r#for, code)) if r#for == here => unsafe { host.load_compiled(spec, &code, digest(&component)) },
                _ => {
                    tracing::warn!(
                        guest = name,
                        "the guest was compiled for another machine or version, and is compiled again: where it was sealed with the model, seal that again to start faster"
                    );
                    host.load(spec, &component)
                }
            };
            loaded.map_err(|error| BundleError::Guest { name, error })
        };
        self.guests.into_iter().map(load).collect()
    }
}

fn check_names<'a>(specs: impl Iterator<Item = &'a Spec> + Clone) -> Result<(), BundleError> {
    if let Some(long) = specs.clone().find(|spec| !(1..=NAME_BYTES_MAX).contains(&spec.name.len())) {
        return Err(BundleError::Malformed(format!(
            "a guest's name has {} bytes; it has 1 to {NAME_BYTES_MAX}",
            long.name.len()
        )));
    }
    let mut names: Vec<&str> = specs.map(|spec| spec.name.as_str()).collect();
    if names.len() > GUESTS_MAX {
        return Err(BundleError::Malformed(format!("{} guests; the limit is {GUESTS_MAX}", names.len())));
    }
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(BundleError::Malformed(format!("two guests have the name '{}'", pair[0]))),
        None => Ok(()),
    }
}
