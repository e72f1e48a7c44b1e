//! What chat and text completions ask for in common: how much to generate, how to choose, what to send back.

use crate::{
    constraint::Constraint,
    error::ApiError,
    fields::{Fields, expected, number},
};
use serde_json::{Map, Value};

/// `n`, and prompts times `n`, are at most this.
pub const CHOICES_MAX: usize = 128;
/// Alternatives per token that `logprobs` and `top_logprobs` may ask for.
pub const TOP_LOGPROBS_MAX: u32 = 20;
/// Stop strings of one request.
pub const STOP_STRINGS_MAX: usize = 16;
/// Bytes of one stop string.
pub const STOP_BYTES_MAX: usize = 1024;
/// Smaller ones would make logits infinite; what they mean is said by this one, too.
pub const REPETITION_PENALTY_MIN: f32 = 0.01;
/// Entries of `logit_bias`.
pub const LOGIT_BIAS_MAX: usize = 1024;

/// How the next token is chosen. `None` leaves the choice to the model's own defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; 0 to 2.
    pub temperature: Option<f32>,
    /// Nucleus: the smallest set of tokens with at least this probability; above 0, to 1.
    pub top_p: Option<f32>,
    /// Only the k most likely tokens; 0 is off.
    pub top_k: Option<u32>,
    /// Only tokens at least this fraction as likely as the likeliest; 0 to 1.
    pub min_p: Option<f32>,
    /// Subtracted once from a token that was generated before; -2 to 2.
    pub presence_penalty: f32,
    /// Subtracted for each time a token was generated before; -2 to 2.
    pub frequency_penalty: f32,
    /// Divides (positive) or multiplies (negative) logits of tokens in prompt or answer; 0.01 to 100, 1 is off.
    pub repetition_penalty: Option<f32>,
    /// Added to the logits of these token ids; -100 to 100.
    pub logit_bias: Vec<(u32, f32)>,
}

/// What a request asks to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Generate {
    /// The model asked for.
    pub model: String,
    /// Answer as server-sent events.
    pub stream: bool,
    /// A last chunk of the stream carries `usage`.
    pub include_usage: bool,
    /// Choices per prompt.
    pub n: u32,
    /// Tokens to generate at most; `None` is the endpoint's default. 0 only where the prompt is given back.
    pub max_tokens: Option<u32>,
    /// The answer begins with the prompt, and so do its log probabilities.
    pub echo: bool,
    /// Generation ends before any of these.
    pub stop: Vec<String>,
    /// End tokens are counted and returned like any other, but for the end of a form.
    pub ignore_eos: bool,
    /// Makes sampling reproducible.
    pub seed: Option<u64>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// `Some(k)`: log probabilities of each token and of the `k` likeliest alternatives.
    pub logprobs: Option<u32>,
    /// Token strings in `logprobs` are `token_id:N`.
    pub return_tokens_as_token_ids: bool,
    /// May use and fill the prefix cache.
    pub cache_prompt: bool,
    /// May be generated speculatively.
    pub speculate: bool,
    /// The form that every choice must have.
    pub constraint: Option<Constraint>,
}

impl Generate {
    /// These fields of a body and defaults for all others, checked.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn check(fields: &Map<String, Value>) -> Result<Self, ApiError> {
        Self::read(&Fields::root(fields))
    }

    /// All common fields but `logprobs`, which the two endpoints spell differently.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Self, ApiError> {
        let stream = fields.bool("stream")?.unwrap_or(false);
        let echo = fields.bool("echo")?.unwrap_or(false);
        // It changes nothing in the answer.
        fields.string("user")?;
        Ok(Self {
            model: fields.model()?,
            stream,
            include_usage: include_usage(fields, stream)?,
            n: fields.integer("n", 1..=CHOICES_MAX as i64)?.map_or(1, |n| n as u32),
            max_tokens: max_tokens(fields, if echo { 0 } else { 1 })?,
            echo,
            stop: stop(fields)?,
            ignore_eos: fields.bool("ignore_eos")?.unwrap_or(false),
            seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(i64::cast_unsigned),
            sampling: sampling(fields)?,
            logprobs: None,
            return_tokens_as_token_ids: fields.bool("return_tokens_as_token_ids")?.unwrap_or(false),
            cache_prompt: fields.bool("cache_prompt")?.unwrap_or(true),
            speculate: fields.bool("speculate")?.unwrap_or(true),
            constraint: Constraint::read(fields)?,
        })
    }
}

fn include_usage(fields: &Fields<'_>, stream: bool) -> Result<bool, ApiError> {
    let Some(options) = fields.object("stream_options")? else {
        return Ok(false);
    };
    if !stream {
        return Err(ApiError::field("stream_options", "is only allowed when stream is true"));
    }
    Ok(options.bool("include_usage")?.unwrap_or(false))
}

/// `max_completion_tokens` is the newer name and wins.
fn max_tokens(fields: &Fields<'_>, least: i64) -> Result<Option<u32>, ApiError> {
    let read = |name| fields.integer(name, least..=i64::from(u32::MAX));
    let (newer, older) = (read("max_completion_tokens")?, read("max_tokens")?);
    Ok(newer.or(older).map(|n| n as u32))
}

fn stop(fields: &Fields<'_>) -> Result<Vec<String>, ApiError> {
    let check = |path: String, v: &Value| match v.as_str() {
        None => Err(expected(&path, "a string", v)),
        Some("") => Err(ApiError::field(path, "must not be empty")),
        Some(s) if s.len() > STOP_BYTES_MAX => {
            Err(ApiError::field(path, format_args!("has {} bytes; the limit is {STOP_BYTES_MAX}", s.len())))
        }
        Some(s) => Ok(s.to_owned()),
    };
    match fields.get("stop") {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() > STOP_STRINGS_MAX => {
            Err(ApiError::field("stop", format_args!("has {} strings; the limit is {STOP_STRINGS_MAX}", list.len())))
        }
        Some(Value::Array(list)) => list.iter().enumerate().map(|(i, v)| check(format!("stop[{i}]"), v)).collect(),
        Some(v @ Value::String(_)) => Ok(vec![check("stop".into(), v)?]),
        Some(other) => Err(expected("stop", "a string or an array of strings", other)),
    }
}

fn sampling(fields: &Fields<'_>) -> Result<Sampling, ApiError> {
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0..=2.0)?,
        // 0 asks for the likeliest token alone, which the smallest nucleus is.
        top_p: fields.number("top_p", 0.0..=1.0)?,
        top_k: fields.integer("top_k", -1..=i64::from(u32::MAX))?.map(|k| k.max(0) as u32),
        min_p: fields.number("min_p", 0.0..=1.0)?,
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        repetition_penalty: fields.number("repetition_penalty", REPETITION_PENALTY_MIN..=100.0)?,
        logit_bias: logit_bias(fields)?,
    })
}

fn logit_bias(fields: &Fields<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(object) = fields.object("logit_bias")? else {
        return Ok(Vec::new());
    };
    let read = |(key, value): (&String, &Value)| {
        let path = object.path(key);
        let id = key.parse().map_err(|_| ApiError::field(&path, "is not a token id"))?;
        Ok((id, number(value, &path, -100.0..=100.0)?))
    };
    if object.entries().count() > LOGIT_BIAS_MAX {
        return Err(ApiError::field("logit_bias", format_args!("has more than {LOGIT_BIAS_MAX} entries")));
    }
    object.entries().map(read).collect()
}
