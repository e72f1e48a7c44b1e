//! `POST /v1/embeddings`: the request and its answer.

use crate::{
    completion::{Prompt, prompts},
    error::ApiError,
    fields::{Fields, object},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Inputs of one request (OpenAI's limit).
pub const INPUTS_MAX: usize = 2048;

/// Texts to be turned into vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingRequest {
    /// The model asked for.
    pub model: String,
    /// At least one.
    pub inputs: Vec<Prompt>,
    /// Vectors as base64 of little-endian float32.
    pub base64: bool,
    /// Elements of a vector; must be what the model has.
    pub dimensions: Option<usize>,
    /// Inputs are cut to so many tokens; −1: to what the model takes. Without it a longer one is an error (vLLM's).
    pub truncate: Option<i64>,
}

/// Reads and checks a whole request.
pub fn parse_embeddings(body: &[u8]) -> Result<EmbeddingRequest, ApiError> {
    let map = object(body)?;
    let fields = Fields::root(&map);
    let format = fields.string("encoding_format")?.unwrap_or("float");
    if !["float", "base64"].contains(&format) {
        return Err(ApiError::field("encoding_format", "must be 'float' or 'base64'"));
    }
    // It changes nothing in the answer.
    fields.string("user")?;
    let truncate = fields.integer("truncate_prompt_tokens", -1..=i64::from(u32::MAX))?;
    if truncate == Some(0) {
        return Err(ApiError::field("truncate_prompt_tokens", "must be above 0, or -1 for what the model takes"));
    }
    Ok(EmbeddingRequest {
        model: fields.model()?,
        inputs: prompts(fields.required("input")?, "input", INPUTS_MAX)?,
        base64: format == "base64",
        dimensions: fields.integer("dimensions", 1..=i64::from(u32::MAX))?.map(|n| n as usize),
        truncate,
    })
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingAnswer {
    /// `list`
    pub object: String,
    /// One for each input, in order.
    pub data: Vec<Embedding>,
    /// The model that answered.
    pub model: String,
    /// Tokens read.
    pub usage: EmbeddingUsage,
}

/// One input's vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    /// `embedding`
    pub object: String,
    /// Which input, from 0.
    pub index: usize,
    /// An array of numbers, or base64.
    pub embedding: Value,
}

/// Tokens read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingUsage {
    /// In all inputs, special ones included.
    pub prompt_tokens: u32,
    /// The same.
    pub total_tokens: u32,
}

impl EmbeddingAnswer {
    /// An answer with these vectors.
    pub fn new(model: &str, vectors: &[Vec<f32>], tokens: u32, base64: bool) -> Self {
        let embedding = |(index, vector): (usize, &Vec<f32>)| Embedding {
            object: "embedding".into(),
            index,
            embedding: if base64 { encoded(vector) } else { Value::from(vector.clone()) },
        };
        Self {
            object: "list".into(),
            data: vectors.iter().enumerate().map(embedding).collect(),
            model: model.to_owned(),
            usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
        }
    }
}

fn encoded(vector: &[f32]) -> Value {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    Value::from(STANDARD.encode(bytes))
}

impl EmbeddingRequest {
    /// The vectors have as many elements as asked for.
    ///
    /// # Errors
    /// 400 naming `dimensions`.
    pub fn check_dimensions(&self, width: usize) -> Result<(), ApiError> {
        match self.dimensions.filter(|&n| n != width) {
            None => Ok(()),
            Some(n) => {
                Err(ApiError::field("dimensions", format_args!("is {n}, but this model's vectors have {width}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn inputs_of_all_kinds_are_read_and_wrong_ones_named() {
        let inputs = |input: &str| {
            let body = format!(r#"{{"model":"m","input":{input}}}"#);
            parse_embeddings(body.as_bytes()).map(|request| request.inputs)
        };
        assert_eq!(inputs(r#""a""#).unwrap(), [Prompt::Text("a".into())]);
        assert_eq!(inputs(r#"["a",""]"#).unwrap().len(), 2);
        assert_eq!(inputs("[1,2]").unwrap(), [Prompt::Tokens(vec![1, 2])]);
        assert_eq!(inputs("[[1],[2,3]]").unwrap().len(), 2);
        for (wrong, named) in [("[]", "input"), ("7", "input"), (r#"["a",7]"#, "input[1]"), ("[[1],[]]", "input[1]")] {
            let error = inputs(wrong).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(named), "{wrong}");
        }
        let error = parse_embeddings(br#"{"model":"m","input":"a","encoding_format":"hex"}"#).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("encoding_format"));
        let error = parse_embeddings(br#"{"model":"m","input":"a","user":1}"#).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("user"));
        let many = format!(r#"{{"model":"m","input":[{}""]}}"#, r#""a","#.repeat(INPUTS_MAX));
        assert!(parse_embeddings(many.as_bytes()).unwrap_err().message.contains("2049"));
    }

    #[test]
    fn base64_is_of_little_endian_floats() {
        let answer = EmbeddingAnswer::new("m", &[vec![1.0, -2.5]], 3, true);
        assert_eq!(answer.data[0].embedding, "AACAPwAAIMA=");
    }
}
