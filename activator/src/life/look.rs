//! What is looked at before anything is served: slices, snapshots, how many descriptors there may be.

use std::{fs::File, io, sync::Arc, time::UNIX_EPOCH};

use protocol::answer::ModelCard;

use super::ServeError;
use crate::{
    config::{Config, ConfigError, ModelEntry},
    settings::{self, Seen},
    slices::{self, Slice},
};

/// What runtimes are put on. Drivers take their time.
///
/// # Errors
/// What is configured is not there.
pub async fn inventory(config: &Config) -> Result<Arc<[Slice]>, ServeError> {
    let (entries, devices) = (config.slices.clone(), config.devices.clone());
    let (wants_gpu, library) = (config.wants_gpu, config.nvml_library.clone());
    let look = move || slices::inventory(&entries, &devices, wants_gpu, library.as_deref());
    let slices = tokio::task::spawn_blocking(look).await.map_err(io::Error::other)??;
    for slice in &slices {
        tracing::info!(slice = slice.name, bytes = slice.bytes, of = ?slice.kind, "a slice");
    }
    Ok(slices.into())
}

/// The model's card and its snapshot's digest. A file that is there and wrong is found out when it is asked for.
///
/// # Errors
/// It is not there, or its memory is too small for it.
pub fn look_at(model: &ModelEntry) -> Result<Seen, ServeError> {
    let open = || {
        let file = File::open(&model.snapshot)?;
        let metadata = file.metadata()?;
        if metadata.is_file() { Ok((file, metadata)) } else { Err(io::Error::other("it is no regular file")) }
    };
    let (file, metadata) = open().map_err(|error| ServeError::NoSnapshot {
        model: model.name.clone(),
        path: model.snapshot.clone(),
        error,
    })?;
    let least = settings::least_memory(metadata.len());
    if let Some(memory) = model.memory.filter(|memory| *memory < least) {
        return Err(ConfigError::Memory { model: model.name.clone(), memory, least }.into());
    }
    let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let digest = match snapshot::Header::read(&file) {
        Ok(header) => Some(header.digest_hex()),
        Err(error) => {
            tracing::error!(model = model.name, %error, "this snapshot cannot be served");
            None
        }
    };
    let card = ModelCard::new(&model.name, modified.map_or(0, |since| since.as_secs()));
    Ok(Seen { entry: model.clone(), card, digest, bytes: metadata.len() })
}

/// One descriptor per client: as many as the system lets us have.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
