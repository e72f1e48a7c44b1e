//! `gpt2`: byte-level BPE with the pre-tokenizer that the file names.

use super::{Around, Bpe, Ids, TokenizerFile, Vocabulary, post_processor, strings};
use crate::{
    Error,
    import::gguf::Gguf,
    tokenizer::cuts::{GPT4O, LLAMA3, QWEN2, TEKKEN},
};
use serde_json::{Value as Json, json};

/// How text is cut before BPE, how it is normalised, and two habits that go with the name.
#[derive(Clone, Copy)]
struct Pre {
    /// Applied one after the other; matches stand alone, what lies between stays whole.
    cuts: &'static [&'static str],
    /// The byte-level step cuts by GPT-2's expression as well.
    gpt2_cut: bool,
    nfc: bool,
    /// A word that is in the vocabulary is one token whatever the merges say.
    ignore_merges: bool,
    /// Where the file does not say.
    add_bos: bool,
}

const PLAIN: Pre = Pre { cuts: &[], gpt2_cut: false, nfc: false, ignore_merges: false, add_bos: false };

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
/// The names that [`pre_of`] knows, for messages.
const KNOWN: &str = "llama-bpe, llama3, pixtral, qwen2, gpt-2, phi-2, olmo, smollm, starcoder, refact, dbrx, tekken, gpt-4o and default";

fn pre_of(name: &str) -> Result<Pre, Error> {
    Ok(match name {
        "llama-bpe" | "llama3" | "llama-v3" | "pixtral" => {
            Pre { cuts: &[LLAMA3], ignore_merges: true, add_bos: true, ..PLAIN }
        }
        "dbrx" => Pre { cuts: &[LLAMA3], ..PLAIN },
        "qwen2" | "deepseek-r1-qwen" => Pre { cuts: &[QWEN2], nfc: true, ..PLAIN },
        "tekken" => Pre { cuts: &[TEKKEN], ignore_merges: true, add_bos: true, ..PLAIN },
        "gpt-4o" => Pre { cuts: &[GPT4O], ..PLAIN },
        "gpt-2" | "phi-2" | "olmo" => Pre { gpt2_cut: true, ..PLAIN },
        // Every numeric character of Unicode on its own, not only 0 to 9.
        "smollm" | "starcoder" | "refact" => Pre { cuts: &[r"\p{N}"], gpt2_cut: true, ..PLAIN },
        "default" => Pre { cuts: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"], ..PLAIN },
        other => return Err(Error::Unsupported(format!("GGUF: tokenizer.ggml.pre `{other}`; known are {KNOWN}"))),
    })
}

pub(super) fn rebuild(gguf: &Gguf, vocabulary: &Vocabulary) -> Result<Vec<u8>, Error> {
    let pre = pre_of(gguf.string("tokenizer.ggml.pre")?.unwrap_or("default"))?;
    let file = TokenizerFile {
        version: TokenizerFile::<()>::VERSION,
        added_tokens: vocabulary.added_tokens(),
        normalizer: pre.nfc.then(|| json!({"type": "NFC"})),
        pre_tokenizer: Some(pre_tokenizer(pre)),
        post_processor: post_processor(gguf, vocabulary.tokens, Around { bos: pre.add_bos, eos: false })?,
        decoder: byte_level(false),
        model: Bpe {
            kind: "BPE",
            unk_token: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: pre.ignore_merges,
            vocab: Ids(vocabulary.tokens),
            merges: merges(gguf)?,
        },
    };
    Ok(file.into_bytes())
}

fn byte_level(gpt2_cut: bool) -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": gpt2_cut})
}

fn pre_tokenizer(pre: Pre) -> Json {
    let mut steps: Vec<Json> = Vec::new();
    for cut in pre.cuts {
        steps.push(json!({"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": false}));
    }
    steps.push(byte_level(pre.gpt2_cut));
    json!({"type": "Sequence", "pretokenizers": steps})
}

fn merges(gguf: &Gguf) -> Result<Vec<(&str, &str)>, Error> {
    let merges = strings(gguf, "tokenizer.ggml.merges")?;
    merges
        .iter()
        .enumerate()
        .map(|(rank, merge)| {
            // The first half may itself begin with a space.
            let space = merge.char_indices().skip(1).find(|(_, c)| *c == ' ');
            space.map(|(at, _)| (&merge[..at], &merge[at + 1..])).ok_or_else(|| {
                Error::BadModel(format!("GGUF: tokenizer.ggml.merges: entry {rank}, {merge:?}, is no pair"))
            })
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tokenizer::cuts::Cuts;

    #[test]
    fn text_of_nearly_all_is_cut_without_a_regular_expression() {
        for (name, known) in [
            ("llama-bpe", true),
            ("qwen2", true),
            ("tekken", true),
            ("gpt-4o", true),
            ("gpt-2", true),
            ("smollm", true),
            ("default", false),
        ] {
            assert_eq!(Cuts::of(&pre_tokenizer(pre_of(name).unwrap())).is_some(), known, "{name}");
        }
    }
}
