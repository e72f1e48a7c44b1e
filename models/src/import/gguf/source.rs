//! A GGUF file → a [`Source`]: its tensors under canonical names and in canonical row order, tokenizer and template.

use super::super::{
    Source, map, plan,
    template::Templates,
    tensor::{RowOrder, Stored},
};
use super::{Gguf, TensorInfo, names, parse, tokenizer};
use crate::{Error, ModelConfig, RopeScaling, architectures::Architecture};
use bytes::Bytes;
use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};

/// llama.cpp's converter turns Llama 3's scaling into this tensor.
const FREQUENCY_FACTORS: &str = "rope_freqs.weight";
/// LongRoPE's factors.
const LONG_FACTORS: &str = "rope_factors_long.weight";
const SHORT_FACTORS: &str = "rope_factors_short.weight";

/// Opens the file and checks all but the weights' values.
pub(crate) fn open(path: &Path) -> Result<Source, Error> {
    let file = map::map(path)?;
    let gguf = parse(&file).map_err(|error| error.at(path))?;
    read(&gguf, &file).map_err(|error| error.at(path))
}

fn read(gguf: &Gguf, file: &Bytes) -> Result<Source, Error> {
    let architecture = gguf.architecture()?;
    let mut config = gguf.config(architecture)?;
    let mut by_name: HashMap<&str, &TensorInfo> =
        gguf.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    if let Some(scaling) = scaling_by_tensors(gguf, &config, &mut by_name, file)? {
        config.rope.scaling = scaling;
        config.check("GGUF")?;
    }
    let (tensors, used) = take_tensors(architecture, &config, &by_name, file)?;
    if let Some(name) = by_name.keys().filter(|name| !used.contains(**name)).min() {
        let kind = &config.architecture;
        return Err(Error::Unsupported(format!("GGUF: tensor {name}: no part of the {kind} graph this version runs")));
    }
    Ok(Source {
        config,
        generation: gguf.generation()?,
        tensors,
        tokenizer: tokenizer::rebuild(gguf)?.into(),
        templates: templates(gguf)?,
    })
}

/// The model's tensors in order of first use, and the names of those they were taken from.
fn take_tensors(
    architecture: &Architecture,
    config: &ModelConfig,
    by_name: &HashMap<&str, &TensorInfo>,
    file: &Bytes,
) -> Result<(Vec<Stored>, BTreeSet<String>), Error> {
    let order = if architecture.gguf_interleaved { RowOrder::Interleaved } else { RowOrder::Halves };
    let (mut tensors, mut used) = (Vec::new(), BTreeSet::new());
    for expected in plan::tensors(config) {
        let place = names::of(architecture, config, &expected.name);
        let place = place.expect("each tensor of the graph has a GGUF name");
        let Some(info) = by_name.get(place.name.as_str()) else {
            return Err(Error::BadModel(format!("GGUF: tensor {} is missing", place.name)));
        };
        if info.shape != place.shape(&expected) {
            let (name, found, wanted) = (&place.name, &info.shape, place.shape(&expected));
            return Err(Error::BadModel(format!("GGUF: tensor {name} is {found:?}, the metadata says {wanted:?}")));
        }
        let bytes = file.slice(info.range.clone());
        let stored = Stored::new(&expected, &place, info.format, &bytes, order);
        let cut =
            || Error::BadModel(format!("GGUF: tensor {}: its parts cut blocks of {}", place.name, info.format.name()));
        tensors.push(stored.ok_or_else(cut)?);
        used.insert(place.name.clone());
    }
    Ok((tensors, used))
}

/// What llama.cpp's converter keeps of a rotation's scaling in tensors, which are taken out of `by_name`.
fn scaling_by_tensors(
    gguf: &Gguf,
    config: &ModelConfig,
    by_name: &mut HashMap<&str, &TensorInfo>,
    file: &Bytes,
) -> Result<Option<RopeScaling>, Error> {
    let mut take = |name: &str| by_name.remove(name).map(|info| factors(config, info, file)).transpose();
    let (plain, long, short) = (take(FREQUENCY_FACTORS)?, take(LONG_FACTORS)?, take(SHORT_FACTORS)?);
    let scaling = match (plain, long, short) {
        (None, None, None) => return Ok(None),
        (Some(factors), None, None) => RopeScaling::Factors { factors },
        (None, Some(long), Some(short)) => {
            let (original_context, attention_factor) = gguf.long_rope(config.context_length)?;
            RopeScaling::LongRope { short, long, original_context, attention_factor }
        }
        _ => {
            let all = format!("{FREQUENCY_FACTORS}, {LONG_FACTORS} and {SHORT_FACTORS}");
            return Err(Error::BadModel(format!("GGUF: of {all} either the first or the other two belong in a file")));
        }
    };
    if config.rope.scaling != RopeScaling::None {
        return Err(Error::Unsupported("GGUF: frequency factors together with a rope.scaling.factor".into()));
    }
    Ok(Some(scaling))
}

fn factors(config: &ModelConfig, tensor: &TensorInfo, file: &Bytes) -> Result<Vec<f64>, Error> {
    let expected = config.rotary_dim() / 2;
    if tensor.shape != [expected] || tensor.format != kernels::Format::F32 {
        let (name, shape, format) = (&tensor.name, &tensor.shape, tensor.format.name());
        let what = format!("GGUF: tensor {name} is {format} {shape:?}, expected is f32 [{expected}]");
        return Err(Error::BadModel(what));
    }
    let (each, _) = file[tensor.range.clone()].as_chunks::<4>();
    Ok(each.iter().map(|x| f32::from_le_bytes(*x).into()).collect())
}

fn templates(gguf: &Gguf) -> Result<Templates, Error> {
    let mut templates = Templates::default();
    if let Some(text) = gguf.string("tokenizer.chat_template")? {
        templates.by_name.insert("default".into(), text.into());
    }
    if let Some(text) = gguf.string("tokenizer.chat_template.tool_use")? {
        templates.by_name.insert("tool_use".into(), text.into());
    }
    let tokens = gguf.metadata.get("tokenizer.ggml.tokens").and_then(|value| value.as_strings()).unwrap_or_default();
    for (word, key) in [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")]
    {
        if let Some(text) = gguf.token(key)?.and_then(|id| tokens.get(id as usize)) {
            templates.tokens.insert(word.into(), text.clone());
        }
    }
    Ok(templates)
}
