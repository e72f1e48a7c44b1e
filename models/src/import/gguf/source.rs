//! A GGUF file → a [`Source`]: its tensors under canonical names and in canonical row order, tokenizer and template.

use super::super::{
    Source, map, plan,
    template::Templates,
    tensor::{RowOrder, Stored},
};
use super::{Gguf, TensorInfo, names, parse, tokenizer};
use crate::{Error, ModelConfig, RopeScaling};
use bytes::Bytes;
use std::{collections::HashMap, path::Path};

/// llama.cpp's converter turns Llama 3's scaling into this tensor.
const FREQUENCY_FACTORS: &str = "rope_freqs.weight";

/// Opens the file and checks all but the weights' values.
pub(crate) fn open(path: &Path) -> Result<Source, Error> {
    let file = map::map(path)?;
    let gguf = parse(&file).map_err(|error| error.at(path))?;
    read(&gguf, &file).map_err(|error| error.at(path))
}

fn read(gguf: &Gguf, file: &Bytes) -> Result<Source, Error> {
    let mut config = gguf.config()?;
    let mut by_name: HashMap<&str, &TensorInfo> =
        gguf.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    if let Some(tensor) = by_name.remove(FREQUENCY_FACTORS) {
        config.rope.scaling = frequency_factors(&config, tensor, file)?;
        config.check("GGUF")?;
    }
    let tensors = take_tensors(&config, &mut by_name, file)?;
    if let Some(name) = by_name.keys().min() {
        return Err(Error::Unsupported(format!("GGUF: tensor {name}: no part of the Llama graph this version runs")));
    }
    Ok(Source {
        config,
        generation: gguf.generation()?,
        tensors,
        tokenizer: tokenizer::rebuild(gguf)?.into(),
        templates: templates(gguf)?,
    })
}

fn take_tensors(
    config: &ModelConfig,
    by_name: &mut HashMap<&str, &TensorInfo>,
    file: &Bytes,
) -> Result<Vec<Stored>, Error> {
    let mut tensors = Vec::new();
    for expected in plan::tensors(config) {
        let name = names::of(&expected.name).expect("each tensor of the graph has a GGUF name");
        let Some(info) = by_name.remove(name.as_str()) else {
            return Err(Error::BadModel(format!("GGUF: tensor {name} is missing")));
        };
        if info.shape != expected.shape {
            let (found, wanted) = (&info.shape, &expected.shape);
            return Err(Error::BadModel(format!("GGUF: tensor {name} is {found:?}, the metadata says {wanted:?}")));
        }
        let bytes = file.slice(info.range.clone());
        let stored = Stored::new(&expected, info.format, bytes, RowOrder::Interleaved);
        tensors.push(stored.expect("parse has checked the size"));
    }
    Ok(tensors)
}

fn frequency_factors(config: &ModelConfig, tensor: &TensorInfo, file: &Bytes) -> Result<RopeScaling, Error> {
    let expected = config.head_dim / 2;
    if tensor.shape != [expected] || tensor.format != kernels::Format::F32 {
        let (shape, format) = (&tensor.shape, tensor.format.name());
        return Err(Error::BadModel(format!(
            "GGUF: tensor {FREQUENCY_FACTORS} is {format} {shape:?}, expected is f32 [{expected}]"
        )));
    }
    if config.rope.scaling != RopeScaling::None {
        return Err(Error::Unsupported(format!("GGUF: {FREQUENCY_FACTORS} together with llama.rope.scaling")));
    }
    let bytes = &file[tensor.range.clone()];
    let (each, _) = bytes.as_chunks::<4>();
    Ok(RopeScaling::Factors { factors: each.iter().map(|x| f32::from_le_bytes(*x).into()).collect() })
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
