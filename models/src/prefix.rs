//! A beginning that many prompts have in common, computed once when the model is sealed: its tokens, and the keys and values of all blocks
//! that they fill, the last of them in part. The snapshot's section `prefix-kv` begins as `headed.rs` says, with the magic 89 50 4C 54 50 4B 56 0A; its
//! JSON has the tokens, and what the blocks' bits depend on beside them and the model; its bytes are the blocks one after the other, each layer
//! after layer, as [`Kv::read_block`] gives them.
//!
//! **Contract:** a block is given for exactly the tokens it was computed from. What was computed by other instructions, in another format
//! or by another version is not used. The bytes are not verified here: like weights, they are before a token leaves.

use crate::headed::Headed;
use crate::{Batch, ChatTemplate, Error, Kv, Logits, Model, Segment, Tokenizer};
use bytes::Bytes;
use kernels::BLOCK_TOKENS;
use serde::{Deserialize, Serialize};
use snapshot::{SectionKind, Snapshot};
use std::sync::Arc;

const SECTION: Headed = Headed { magic: *b"\x89PLTPKV\n", name: "prefix-kv" };
/// Rows of one step while it is computed.
const STEP_ROWS: usize = 512;

/// The blocks of a sealed beginning.
#[derive(Debug)]
pub struct Prefix {
    tokens: Vec<u32>,
    blocks: Bytes,
    block_bytes: usize,
}

/// What is said beside the blocks.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    tokens: Vec<u32>,
    #[serde(flatten)]
    identity: Identity,
}

/// What a block's bits depend on beside tokens and model.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Identity {
    version: String,
    instruction_set: String,
    kv_format: String,
    block_tokens: usize,
    block_bytes: usize,
}

impl Identity {
    fn of(model: &Model) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            instruction_set: kernels::instruction_set().into(),
            kv_format: model.kv_format().name().into(),
            block_tokens: BLOCK_TOKENS,
            block_bytes: model.kv_block_bytes(),
        }
    }
}

impl Prefix {
    /// What `snapshot` has sealed for a model that computes as this one; `None` where that is nothing, or of no use here, which is said.
    ///
    /// # Errors
    /// [`Error::BadModel`]: the section is none.
    pub fn from_snapshot(snapshot: &Arc<Snapshot>, model: &Model) -> Result<Option<Self>, Error> {
        let Some(section) = snapshot.section_bytes_unverified(SectionKind::PrefixKv)? else { return Ok(None) };
        let Head { tokens, identity } = SECTION.head(&section)?;
        let here = Identity::of(model);
        if identity != here {
            tracing::warn!(
                model = snapshot.model(),
                ?identity,
                ?here,
                "the sealed prefix was computed for another machine or format and is computed again; seal the model once more here"
            );
            return Ok(None);
        }
        let blocks = section.slice(SECTION.body_at(&section)?..);
        let count = tokens.len().div_ceil(BLOCK_TOKENS);
        if count.checked_mul(identity.block_bytes) != Some(blocks.len()) {
            return Err(bad(format_args!("{} bytes of blocks for {} tokens", blocks.len(), tokens.len())));
        }
        Ok(Some(Self { tokens, blocks, block_bytes: identity.block_bytes }))
    }

    /// Its tokens, those beyond the last whole block included.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Block `number` of a sequence of these tokens, if it is one of the prefix's, and how many of its positions are computed: all, or in
    /// the prefix's last block as many as it has.
    pub fn block(&self, tokens: &[u32], number: usize) -> Option<(usize, &[u8])> {
        let start = number.checked_mul(BLOCK_TOKENS)?;
        let end = self.tokens.len().min(start + BLOCK_TOKENS);
        let is_the_same = start < end && tokens.get(..end)? == &self.tokens[..end];
        let bytes = number * self.block_bytes..(number + 1) * self.block_bytes;
        is_the_same.then(|| (end - start, &self.blocks[bytes]))
    }
}

/// The section for a model that has been sealed to `snapshot` without one. `text`: JSON messages (an array), rendered by the model's chat
/// template without what asks for an answer; or plain text, from which a prompt of `/v1/completions` is to begin.
pub(crate) fn compute(snapshot: &Arc<Snapshot>, text: &str) -> Result<Vec<u8>, Error> {
    let model = Model::restore(snapshot)?;
    let tokens = tokens(snapshot, text)?;
    let context = model.config().context_length;
    if tokens.len() < BLOCK_TOKENS || tokens.len() >= context {
        return Err(Error::Unsupported(format!(
            "a prefix of {} tokens: at least {BLOCK_TOKENS} are computed ahead, and the model has room for {context}",
            tokens.len()
        )));
    }
    let identity = Identity::of(&model);
    let mut kv = prefilled(&model, &tokens);
    let blocks = tokens.len().div_ceil(BLOCK_TOKENS);
    let mut section = SECTION.begin(&Head { tokens, identity })?;
    for block in 0..blocks {
        let at = section.len();
        section.resize(at + kv.block_bytes(), 0);
        kv.read_block(block as u32, &mut section[at..]);
    }
    Ok(section)
}

fn tokens(snapshot: &Arc<Snapshot>, text: &str) -> Result<Vec<u32>, Error> {
    let tokenizer = Tokenizer::from_snapshot(snapshot)?;
    let messages = serde_json::from_str::<serde_json::Value>(text).ok().filter(serde_json::Value::is_array);
    let Some(messages) = messages else { return tokenizer.encode(text, true) };
    let template = ChatTemplate::from_snapshot(snapshot)?
        .ok_or_else(|| Error::Unsupported("a prefix of messages: the model has no chat template".into()))?;
    tokenizer.encode(&template.render(&messages, None, false)?, false)
}

fn prefilled(model: &Model, tokens: &[u32]) -> Kv {
    let blocks = tokens.len().div_ceil(BLOCK_TOKENS);
    let mut kv = model.new_kv(blocks);
    let mut logits = Logits::default();
    for (step, part) in tokens.chunks(STEP_ROWS).enumerate() {
        let segment = Segment {
            row: 0,
            rows: part.len(),
            position: step * STEP_ROWS,
            length: tokens.len(),
            blocks: (0..blocks as u32).collect(),
        };
        let batch = Batch { tokens: part.to_vec(), segments: vec![segment], wanted: vec![part.len() - 1] };
        model.forward_into(&mut kv, &batch, &mut logits);
    }
    kv
}

fn bad(reason: impl std::fmt::Display) -> Error {
    SECTION.bad(reason)
}
