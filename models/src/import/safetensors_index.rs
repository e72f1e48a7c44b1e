//! `model.safetensors.index.json`: which file of the folder holds which tensor. Foreign bytes: everything is bounded and checked.

use crate::Error;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Largest index, in bytes.
pub const INDEX_BYTES_MAX: u64 = 64 << 20;
/// Most tensors.
pub const TENSORS_MAX: usize = 1 << 20;
/// Most files.
pub const SHARDS_MAX: usize = 1 << 12;
const NAME_BYTES_MAX: usize = 255;

/// Tensor name → file name within the folder.
pub type Index = BTreeMap<String, String>;

#[derive(Deserialize)]
struct File {
    weight_map: Index,
}

/// Reads an index. File names are plain names: nothing can lie outside the folder.
///
/// # Errors
/// [`Error::BadModel`] with the place, or the tensor whose file name is none.
pub fn parse(bytes: &[u8]) -> Result<Index, Error> {
    if bytes.len() as u64 > INDEX_BYTES_MAX {
        return Err(bad(format_args!("{} bytes, at most {INDEX_BYTES_MAX} are accepted", bytes.len())));
    }
    let File { weight_map } = serde_json::from_slice(bytes).map_err(bad)?;
    if weight_map.len() > TENSORS_MAX {
        return Err(bad(format_args!("weight_map: {} tensors, at most {TENSORS_MAX}", weight_map.len())));
    }
    for (tensor, file) in &weight_map {
        if !is_plain_name(file) {
            return Err(bad(format_args!("weight_map: {tensor}: {file:?} is no plain name of a .safetensors file")));
        }
    }
    let shards: std::collections::BTreeSet<_> = weight_map.values().collect();
    if shards.len() > SHARDS_MAX {
        return Err(bad(format_args!("weight_map: {} files, at most {SHARDS_MAX}", shards.len())));
    }
    Ok(weight_map)
}

fn is_plain_name(name: &str) -> bool {
    let harmless = |c: char| !matches!(c, '/' | '\\' | ':') && !c.is_control();
    name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && name.ends_with(".safetensors")
        && name.chars().all(harmless)
}

fn bad(reason: impl std::fmt::Display) -> Error {
    Error::BadModel(format!("model.safetensors.index.json: {reason}"))
}
