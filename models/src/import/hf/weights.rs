//! The tensors of a Hugging Face folder: `model.safetensors`, or the shards that its index names.

use super::super::{
    fp8::Scales,
    map, plan, safetensors_index,
    tensor::{Place, RowOrder, Stored},
};
use crate::{Error, ModelConfig, architectures::Architecture};
use bytes::Bytes;
use kernels::Format;
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Longest header, the format's own limit.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// One tensor as a shard's header has it.
struct Found {
    shard: String,
    info: TensorInfo,
    bytes: Bytes,
}

/// All tensors that the graph needs, in order of first use. Shards are mapped, not read.
///
/// `fp8_block`: rows and columns that share a scale; without it a matrix of 8-bit floats has one.
pub(super) fn open(
    folder: &Path,
    architecture: &Architecture,
    config: &ModelConfig,
    fp8_block: Option<[usize; 2]>,
) -> Result<Vec<Stored>, Error> {
    let published = |(name, tensor): (String, Found)| Some(((architecture.published)(&name)?, tensor));
    let mut found: BTreeMap<_, _> = read_headers(folder)?.into_iter().filter_map(published).collect();
    let mut tensors = Vec::new();
    let mut used = BTreeSet::new();
    for expected in plan::tensors(config) {
        let place = (architecture.place)(config, &expected.name);
        let Some(tensor) = found.get(&place.name) else {
            return Err(Error::BadModel(format!("tensor {} is missing", place.name)));
        };
        if tensor.info.dtype == Dtype::F8_E4M3 {
            let (shard, wanted, shape) = (&tensor.shard, place.shape(&expected), &tensor.info.shape);
            let bad =
                || Error::BadModel(format!("{shard}: tensor {} is {shape:?}, config.json says {wanted:?}", place.name));
            // Before anything is divided by an extent of it.
            if shape != wanted {
                return Err(bad());
            }
            let (name, scales) = scales(&found, &place.name, shape, fp8_block)?;
            tensors.push(Stored::scaled(&expected, &place, &tensor.bytes, scales).ok_or_else(bad)?);
            used.insert(name);
        } else {
            tensors.push(checked(&expected, &place, tensor)?);
        }
        used.insert(place.name);
    }
    found.retain(|name, _| !used.contains(name));
    if config.tied_embedding {
        // Some makers write the shared matrix twice.
        found.remove(plan::HEAD);
    }
    match found.keys().next() {
        None => Ok(tensors),
        Some(name) => Err(Error::Unsupported(format!(
            "tensor {name}: no part of the {} graph this version runs",
            config.architecture
        ))),
    }
}

/// The scales of the matrix `name` and the tensor they stand in: `…_scale_inv` for blocks, or `…_scale`; float32 or bfloat16.
fn scales(
    found: &BTreeMap<String, Found>,
    name: &str,
    shape: &[usize],
    block: Option<[usize; 2]>,
) -> Result<(String, Scales), Error> {
    let bad = |what: String| Error::BadModel(format!("tensor {name}: {what}"));
    let candidates = [format!("{name}_scale_inv"), format!("{name}_scale")];
    let Some((at, tensor)) = candidates.iter().find_map(|at| found.get_key_value(at)) else {
        return Err(bad(format!("8-bit floats without their scales, {}", candidates[0])));
    };
    let &[rows, columns] = shape else { return Err(bad(format!("8-bit floats of shape {shape:?}"))) };
    let block = block.unwrap_or([rows, columns]);
    let across = columns.div_ceil(block[1]);
    let count = rows.div_ceil(block[0]) * across;
    let format = match tensor.info.dtype {
        Dtype::F32 => Format::F32,
        Dtype::BF16 => Format::BF16,
        other => return Err(bad(format!("scales of dtype {other:?}; F32 and BF16 are read"))),
    };
    if format.row_bytes(count) != Some(tensor.bytes.len()) {
        return Err(bad(format!("{at} is {:?}, where {count} scales are expected", tensor.info.shape)));
    }
    let mut values = vec![0.0; count];
    format.dequantize_row(&tensor.bytes, &mut values);
    Ok((at.clone(), Scales { values, block, across }))
}

fn checked(expected: &plan::Expected, place: &Place, tensor: &Found) -> Result<Stored, Error> {
    let Found { shard, info, bytes } = tensor;
    let (name, wanted) = (&place.name, place.shape(expected));
    if info.shape != wanted {
        let shape = &info.shape;
        return Err(Error::BadModel(format!("{shard}: tensor {name} is {shape:?}, config.json says {wanted:?}")));
    }
    let format = match info.dtype {
        Dtype::F32 => Format::F32,
        Dtype::F16 => Format::F16,
        Dtype::BF16 => Format::BF16,
        other => {
            let read = "F32, F16, BF16 and F8_E4M3 are read";
            return Err(Error::Unsupported(format!("{shard}: tensor {name} is of dtype {other:?}; {read}")));
        }
    };
    let size = bytes.len();
    Stored::new(expected, place, format, bytes, RowOrder::Halves)
        .ok_or_else(|| Error::BadModel(format!("{shard}: tensor {name} is {wanted:?}, but {size} bytes")))
}

fn read_headers(folder: &Path) -> Result<BTreeMap<String, Found>, Error> {
    let index = map::read_small_if_any(&folder.join(INDEX), safetensors_index::INDEX_BYTES_MAX)?;
    let Some(index) = index else {
        if !folder.join(SINGLE).exists() {
            return Err(Error::BadModel(format!("neither {SINGLE} nor {INDEX} is there (other formats are not read)")));
        }
        return read_shard(folder, SINGLE);
    };
    let index = safetensors_index::parse(&index)?;
    let shards: BTreeSet<&String> = index.values().collect();
    let mut all = BTreeMap::new();
    for shard in shards {
        for (name, tensor) in read_shard(folder, shard)? {
            // A shard may hold more than the index says; what the index does not name is not part of the model.
            if index.get(&name) == Some(shard) {
                all.insert(name, tensor);
            }
        }
    }
    match index.iter().find(|(name, _)| !all.contains_key(*name)) {
        None => Ok(all),
        Some((name, shard)) => Err(Error::BadModel(format!("{INDEX}: {name} is not in {shard}"))),
    }
}

fn read_shard(folder: &Path, shard: &str) -> Result<BTreeMap<String, Found>, Error> {
    let file = map::map(&folder.join(shard))?;
    let (start, metadata) = read_header(&file).map_err(|reason| Error::BadModel(format!("{shard}: {reason}")))?;
    let data = file.slice(start..);
    let each = metadata.tensors().into_iter();
    let found = each.map(|(name, info)| {
        let bytes = data.slice(info.data_offsets.0..info.data_offsets.1);
        (name, Found { shard: shard.to_owned(), info: info.clone(), bytes })
    });
    Ok(found.collect())
}

/// Where the data starts, and what it is. **Invariant:** every tensor lies within the data, which ends with the file.
fn read_header(file: &[u8]) -> Result<(usize, Metadata), String> {
    let (length, rest) = file.split_first_chunk().ok_or("header length at byte 0: fewer than 8 bytes")?;
    let length = u64::from_le_bytes(*length);
    if length > HEADER_BYTES_MAX || length > rest.len() as u64 {
        let (most, left) = (HEADER_BYTES_MAX, rest.len());
        return Err(format!(
            "header length at byte 0: {length}, with {left} bytes after it and at most {most} accepted"
        ));
    }
    let (header, data) = rest.split_at(length as usize);
    // The crate checks that tensors follow one another without gaps and are as long as their shapes say.
    let metadata: Metadata = serde_json::from_slice(header).map_err(|error| format!("header at byte 8: {error}"))?;
    if metadata.data_len() != data.len() {
        let (said, found) = (metadata.data_len(), data.len());
        return Err(format!("data at byte {}: {found} bytes, the header says {said}", file.len() - found));
    }
    Ok((file.len() - data.len(), metadata))
}
