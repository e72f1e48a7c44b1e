//! Files of a Hugging Face folder.

use kernels::Format;
use serde_json::{Value as Json, json};
use std::{collections::BTreeMap, path::Path};

pub fn write_json(folder: &Path, name: &str, json: &Json) {
    std::fs::write(folder.join(name), serde_json::to_vec(json).unwrap()).unwrap();
}

/// Name → format, shape, bytes.
pub type Tensors = BTreeMap<String, (Format, Vec<usize>, Vec<u8>)>;

pub fn write_safetensors(path: &Path, tensors: &Tensors) {
    let mut header = serde_json::Map::new();
    let mut offset = 0;
    for (name, (format, shape, data)) in tensors {
        let dtype = format.name().to_uppercase();
        let end = offset + data.len();
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    tensors.values().for_each(|(_, _, data)| file.extend(data));
    std::fs::write(path, file).unwrap();
}

/// A `tokenizer.json` whose tokens are single bytes.
pub fn byte_tokenizer(size: usize) -> Json {
    let tokens = super::llama::byte_tokens(size);
    let vocab: serde_json::Map<String, Json> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let special = |id: usize| {
        json!({
            "id": id, "content": tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(0), special(1)],
        "normalizer": null, "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
}
