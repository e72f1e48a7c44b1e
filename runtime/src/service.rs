//! A restored model at work: requests in, choices out. **Invariant:** knows no HTTP. Tokenising and templates run here,
//! on the caller's thread; tokens are computed on the engine's.

use crate::{
    embedder::Embedder,
    engine::{Engine, Gate, Guide, Job, Params, Refused, Scope},
    guide::Guides,
    text::{Choice, decoder::Decoder},
    tools::{Format, Parser, Reading},
};
use models::{ChatTemplate, Generation, Tokenizer};
use protocol::{ApiError, Constraint, ErrorKind, Generate, Prompt, tools::Tools};
use serde_json::Value;
use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

/// A model that can answer.
pub struct Service {
    /// What clients call it.
    pub model: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Text ↔ ids.
    pub tokenizer: Arc<Tokenizer>,
    /// Tokens of prompt and answer together: the model's context, or what the KV pool holds where that is less.
    pub context: usize,
    /// Token ids are below this.
    pub vocab: usize,
    /// What it does.
    pub work: Work,
    /// Opens when the snapshot is verified.
    pub gate: Gate,
}

/// What a model does.
#[allow(clippy::large_enum_variant, reason = "there is one of it")]
pub enum Work {
    /// Goes on with texts.
    Generate(Generator),
    /// Makes vectors of them.
    Embed(Embedder),
}

/// A decoder at work.
pub struct Generator {
    /// `None` where the model has none: it cannot chat.
    pub template: Option<ChatTemplate>,
    /// The makers' defaults.
    pub generation: Generation,
    /// Forms that answers may be asked for.
    pub guides: Guides,
    /// Computes.
    pub engine: Engine,
}

impl Service {
    /// # Errors
    /// 400 where the model does not generate.
    pub fn generator(&self) -> Result<&Generator, ApiError> {
        match &self.work {
            Work::Generate(generator) => Ok(generator),
            Work::Embed(_) => Err(self.wrong_work("makes embeddings; use /v1/embeddings")),
        }
    }

    /// # Errors
    /// 400 where the model makes no embeddings.
    pub fn embedder(&self) -> Result<&Embedder, ApiError> {
        match &self.work {
            Work::Embed(embedder) => Ok(embedder),
            Work::Generate(_) => Err(self.wrong_work("generates text and makes no embeddings")),
        }
    }

    fn wrong_work(&self, what: &str) -> ApiError {
        ApiError::field("model", format_args!("the model '{}' {what}", self.model))
    }

    /// A chat as a prompt.
    ///
    /// # Errors
    /// 400 where the model cannot chat or its template refuses these messages.
    pub fn render(
        &self,
        messages: &Value,
        tools: Option<&Tools>,
        add_generation_prompt: bool,
    ) -> Result<String, ApiError> {
        let template = self.template()?;
        let tools = tools.map(|tools| &tools.list);
        template.render(messages, tools, add_generation_prompt).map_err(|e| ApiError::field("messages", e))
    }

    /// How this model writes calls of tools.
    ///
    /// # Errors
    /// 400 where the model cannot chat.
    pub fn tool_format(&self) -> Result<Format, ApiError> {
        self.template().map(Format::of)
    }

    fn template(&self) -> Result<&ChatTemplate, ApiError> {
        let none = || ApiError::field("messages", "this model has no chat template; use /v1/completions");
        self.generator()?.template.as_ref().ok_or_else(none)
    }

    /// Text as token ids.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, ApiError> {
        self.tokenizer.encode(text, add_special).map_err(|e| ApiError::new(ErrorKind::Internal, e.to_string()))
    }

    /// A completion's prompt as token ids, checked to be ones.
    pub fn prompt(&self, prompt: Prompt) -> Result<Vec<u32>, ApiError> {
        match prompt {
            Prompt::Text(text) => self.encode(&text, true),
            Prompt::Tokens(ids) => self.check_ids("prompt", &ids).map(|()| ids),
        }
    }

    /// All of `ids` are in the vocabulary.
    pub fn check_ids(&self, param: &str, ids: &[u32]) -> Result<(), ApiError> {
        match ids.iter().find(|&&id| id as usize >= self.vocab) {
            Some(id) => Err(ApiError::field(
                param,
                format_args!("token id {id} is not below {}, the vocabulary's size", self.vocab),
            )),
            None => Ok(()),
        }
    }

    /// Starts `n` choices for each prompt, in order. Keys and values are shared within `scope` alone.
    ///
    /// # Errors
    /// 400 where a prompt does not fit, 429 where too much waits. What was started before it is cancelled.
    pub fn start(
        &self,
        generate: &Generate,
        tools: Option<&Reading>,
        scope: Scope,
        prompts: Vec<Vec<u32>>,
    ) -> Result<Vec<Choice>, ApiError> {
        let generator = self.generator()?;
        let budgets: Vec<usize> =
            prompts.iter().map(|p| self.budget(p, generate.max_tokens)).collect::<Result<_, _>>()?;
        let biased: Vec<u32> = generate.sampling.logit_bias.iter().map(|b| b.0).collect();
        self.check_ids("logit_bias", &biased)?;
        // Each choice follows a form of its own; that it can be followed shows before any is started.
        let guide = |constraint: &Constraint| {
            generator.guides.guide(&constraint.form).map_err(|e| ApiError::field(&constraint.field, e))
        };
        let seed = generate.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
        let mut choices = Vec::new();
        for (prompt, max_tokens) in prompts.into_iter().zip(budgets) {
            for _ in 0..generate.n {
                let index = choices.len() as u32;
                let params = generator.params(generate, seed, index);
                let guide = generate.constraint.as_ref().map(guide).transpose()?;
                choices.push(self.submit(
                    generator,
                    generate,
                    tools,
                    scope,
                    guide,
                    index,
                    params,
                    prompt.clone(),
                    max_tokens,
                )?);
            }
        }
        Ok(choices)
    }

    /// Tokens that may be generated after this prompt.
    fn budget(&self, prompt: &[u32], max_tokens: Option<u32>) -> Result<usize, ApiError> {
        if prompt.is_empty() {
            return Err(ApiError::field("prompt", "has no tokens"));
        }
        let wanted = max_tokens.map_or_else(|| self.context.saturating_sub(prompt.len()).max(1), |n| n as usize);
        match prompt.len().saturating_add(wanted) > self.context {
            true => Err(ApiError::context_length(prompt.len(), wanted, self.context)),
            false => Ok(wanted),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn submit(
        &self,
        generator: &Generator,
        generate: &Generate,
        tools: Option<&Reading>,
        scope: Scope,
        guide: Option<Box<dyn Guide>>,
        index: u32,
        params: Params,
        prompt: Vec<u32>,
        max_tokens: usize,
    ) -> Result<Choice, ApiError> {
        let ends = if generate.ignore_eos { Vec::new() } else { generator.generation.eos.clone() };
        let logprobs = generate.logprobs.map(|k| k as usize);
        let cache = generate.cache_prompt.then_some(scope);
        let job = Job { prompt, max_tokens, ends, params, logprobs, cache, speculate: generate.speculate, guide };
        let output = generator.engine.submit(job).map_err(refusal)?;
        // Marks of calls can be special tokens, which are no text otherwise.
        let decoder = Decoder::new(self.tokenizer.stream(tools.is_none()), generate.stop.clone());
        Ok(Choice::new(index, output, self.gate.clone(), decoder, tools.cloned().map(Parser::new)))
    }
}

impl Generator {
    fn params(&self, generate: &Generate, seed: u64, choice: u32) -> Params {
        let (asked, makers) = (&generate.sampling, &self.generation);
        Params {
            temperature: asked.temperature.or(makers.temperature).unwrap_or(1.0),
            top_p: asked.top_p.or(makers.top_p).unwrap_or(1.0),
            top_k: asked.top_k.or(makers.top_k).unwrap_or(0),
            min_p: asked.min_p.unwrap_or(0.0),
            presence_penalty: asked.presence_penalty,
            frequency_penalty: asked.frequency_penalty,
            repetition_penalty: asked.repetition_penalty.unwrap_or(1.0),
            logit_bias: asked.logit_bias.clone(),
            seed,
            choice,
        }
    }
}

/// Seconds after which a full queue may have room.
const RETRY_AFTER_S: u32 = 1;

pub fn refusal(refused: Refused) -> ApiError {
    let kind = match refused {
        Refused::Full(_) => ErrorKind::QueueFull,
        Refused::Stopped => ErrorKind::Unavailable,
    };
    ApiError::new(kind, refused.to_string()).retry_after(RETRY_AFTER_S)
}
