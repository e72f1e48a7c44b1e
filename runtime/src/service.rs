//! A restored model at work: requests in, choices out. **Invariant:** knows no HTTP. Tokenising and templates run here,
//! on the caller's thread; tokens are computed on the engine's.

use crate::{
    embedder::Embedder,
    engine::{Engine, Gate, Guide, Job, Params, Refused, Scope, mix},
    guests::{Shared, token::Steered},
    guide::{Compiled, Guides},
    text::{Choice, decoder::Decoder},
    tools::{Format, Parser, Reading},
};
use guests::Chain;
use models::{ChatTemplate, Generation, Tokenizer};
use protocol::{
    ApiError, Constraint, ErrorKind, Generate, Prompt,
    generate::REPETITION_PENALTY_MIN,
    resume::{AnswerKey, Trail},
    tools::Tools,
};
use serde_json::Value;
use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, OnceLock},
    time::SystemTime,
};

/// Bytes of text for one of its tokens' bytes: a normaliser makes texts shorter (white space becomes one space, accents go,
/// compatibility forms are taken apart), though not by more than this where the text is one that somebody wrote.
const NORMALISED_BYTES_MIN: usize = 4;

/// A model that can answer. Cheap to clone, compared with what it does.
#[derive(Clone)]
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
    /// Bytes of the longest token, once somebody has asked.
    pub longest_token: Arc<OnceLock<usize>>,
    /// What it does.
    pub work: Arc<Work>,
    /// What its tokens depend on beside the request and the guests.
    pub identity: String,
    /// What requests and answers go through.
    pub guests: Chain,
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
    /// The same with other guests.
    pub fn with_guests(&self, guests: Chain) -> Self {
        Self { guests, ..self.clone() }
    }

    /// What an answer's tokens depend on beside the request.
    pub fn identity(&self) -> String {
        format!("{}/{}", self.identity, self.guests.identity())
    }

    /// # Errors
    /// 400 where the model does not generate.
    pub fn generator(&self) -> Result<&Generator, ApiError> {
        match &*self.work {
            Work::Generate(generator) => Ok(generator),
            Work::Embed(_) => Err(self.wrong_work("makes embeddings; use /v1/embeddings")),
        }
    }

    /// # Errors
    /// 400 where the model makes no embeddings.
    pub fn embedder(&self) -> Result<&Embedder, ApiError> {
        match &*self.work {
            Work::Embed(embedder) => Ok(embedder),
            Work::Generate(_) => Err(self.wrong_work("generates text and makes no embeddings")),
        }
    }

    fn wrong_work(&self, what: &str) -> ApiError {
        ApiError::field("model", format_args!("the model '{}' {what}", self.model))
    }

    /// A chat as a prompt; `now` is what the template takes for the time.
    ///
    /// # Errors
    /// 400 where the model cannot chat or its template refuses these messages.
    pub fn render(
        &self,
        messages: &Value,
        tools: Option<&Tools>,
        add_generation_prompt: bool,
        now: SystemTime,
    ) -> Result<String, ApiError> {
        let template = self.template()?;
        let tools = tools.map(|tools| &tools.list);
        template.render_at(messages, tools, add_generation_prompt, now).map_err(|e| ApiError::field("messages", e))
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

    /// Text in field `param` as token ids that the model can read.
    ///
    /// # Errors
    /// 400 where it does not fit the context whatever its tokens are, before it is encoded; 400 where it has a token that the
    /// tokenizer knows and the model does not.
    pub fn encode_for_model(&self, param: &str, text: &str, add_special: bool) -> Result<Vec<u32>, ApiError> {
        // What has a byte for each token of the context at most fits, and need not wait for the longest token to be found.
        if text.len() > self.context && text.len() > self.text_bytes_max() {
            return Err(ApiError::text_too_long(param, text.len(), self.text_bytes_max(), self.context));
        }
        let ids = self.encode(text, add_special)?;
        self.check_ids(param, &ids).map(|()| ids)
    }

    /// No text that is longer fits the context.
    pub fn text_bytes_max(&self) -> usize {
        let bytes = |id| self.tokenizer.token_bytes(id).len();
        let longest = || (0..self.tokenizer.vocab_size() as u32).map(bytes).max().unwrap_or(0).max(1);
        let longest = *self.longest_token.get_or_init(longest);
        self.context.saturating_mul(longest).saturating_mul(NORMALISED_BYTES_MIN)
    }

    /// A completion's prompt as token ids, checked to be ones.
    pub fn prompt(&self, param: &str, prompt: Prompt) -> Result<Vec<u32>, ApiError> {
        match prompt {
            Prompt::Text(text) => self.encode_for_model(param, &text, true),
            Prompt::Tokens(ids) => self.check_ids(param, &ids).map(|()| ids),
        }
    }

    /// All of `ids` are in the vocabulary.
    pub fn check_ids(&self, param: &str, ids: &[u32]) -> Result<(), ApiError> {
        let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab) else { return Ok(()) };
        let name = self.tokenizer.special(id).map(|name| format!(" ('{name}')")).unwrap_or_default();
        let problem = format_args!("token id {id}{name} is not below {}, the model's vocabulary", self.vocab);
        Err(ApiError::field(param, problem))
    }

    /// Starts `n` choices for each prompt, in order, but those that are over by the trail; the others go on behind it. Keys and
    /// values are shared within `scope` alone. `completes`: their text
    /// goes on where the prompt's ends; else it is a text of its own. `guests`: of each choice, where the model has any.
    ///
    /// # Errors
    /// 400 where a prompt does not fit, 429 where too much waits. What was started before it is cancelled.
    pub fn start(
        &self,
        generate: &Generate,
        tools: Option<&Reading>,
        scope: Scope,
        completes: bool,
        (prompts, guests): (Vec<Vec<u32>>, &[Shared]),
        begun: &Begun,
    ) -> Result<Vec<Choice>, ApiError> {
        let generator = self.generator()?;
        let budgets: Vec<usize> =
            prompts.iter().map(|p| self.budget(p, generate.max_tokens)).collect::<Result<_, _>>()?;
        let biased: Vec<u32> = generate.sampling.logit_bias.iter().map(|b| b.0).collect();
        self.check_ids("logit_bias", &biased)?;
        let compile = |constraint: &Constraint| {
            generator.guides.compile(&constraint.form).map_err(|e| ApiError::field(&constraint.field, e))
        };
        let form = generate.constraint.as_ref().map(compile).transpose()?;
        let seed = generate.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
        begun.trail.choices.iter().try_for_each(|past| self.check_ids("trail", &past.tokens))?;
        let start = Start { service: self, generator, generate, tools, guests, scope, completes, form, seed, begun };
        // Nothing can be wrong with the request any more.
        let mut choices = Vec::new();
        let each = prompts.iter().zip(budgets).flat_map(|each| (0..generate.n).map(move |nth| (each, nth)));
        for (index, ((prompt, max_tokens), nth)) in (0u32..).zip(each) {
            if !begun.trail.past(index).is_some_and(|past| past.ended) {
                choices.push(start.choice(index, nth, prompt, max_tokens)?);
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
}

/// A request of which all is checked.
struct Start<'a> {
    service: &'a Service,
    generator: &'a Generator,
    generate: &'a Generate,
    tools: Option<&'a Reading>,
    /// By choice; empty where the model has none.
    guests: &'a [Shared],
    scope: Scope,
    completes: bool,
    form: Option<Compiled>,
    seed: u64,
    begun: &'a Begun,
}

/// An answer that another runtime may have begun.
#[derive(Clone, Debug, Default)]
pub struct Begun {
    /// Who it is, where an activator says so.
    pub key: Option<AnswerKey>,
    /// What of it was seen.
    pub trail: Trail,
}

impl Start<'_> {
    /// What says which tokens may come: guests, the form, or both.
    fn guide(&self, index: u32, prompt: &[u32]) -> Option<Box<dyn Guide>> {
        let form = self.form.as_ref().map(Compiled::guide);
        let steers = self.service.guests.hooks().token;
        match self.guests.get(index as usize).filter(|_| steers) {
            Some(guests) => Some(Box::new(Steered::new(guests.clone(), prompt.to_vec(), self.service.vocab, form))),
            None => form,
        }
    }

    /// Number `index` of the answer, the `nth` of its prompt: what it samples follows from that prompt alone.
    fn choice(&self, index: u32, nth: u32, prompt: &[u32], max_tokens: usize) -> Result<Choice, ApiError> {
        let (generator, generate, tools) = (self.generator, self.generate, self.tools);
        let past = self.begun.trail.past(index);
        let generated = past.map(|past| past.tokens.clone()).unwrap_or_default();
        if generated.len() > max_tokens {
            return Err(ApiError::field("trail", "has more tokens than the answer may have"));
        }
        let job = Job {
            prompt: prompt.to_vec(),
            generated,
            max_tokens,
            // A form's end is an end, whatever is ignored: only the end token can say it.
            ends: if generate.ignore_eos && self.form.is_none() {
                Vec::new()
            } else {
                generator.generation.eos.clone()
            },
            params: generator.params(generate, self.seed, nth),
            logprobs: generate.logprobs.map(|k| k as usize),
            score_prompt: generate.echo && past.is_none(),
            cache: generate.cache_prompt.then_some(self.scope),
            speculate: generate.speculate,
            guide: self.guide(index, prompt),
        };
        let output = generator.engine.submit(job).map_err(refusal)?;
        let (words, skip_special) = (&self.service.tokenizer, tools.is_none());
        // Marks of calls can be special tokens, which are no text otherwise.
        // A prompt that is given back is the beginning of the text.
        let goes_on = self.completes && !generate.echo;
        let stream = if goes_on { words.stream_on(skip_special) } else { words.stream(skip_special) };
        let decoder = Decoder::new(stream, self.guests.get(index as usize).cloned(), generate.stop.clone());
        let key = mix(self.begun.key.map_or(self.seed, |key| key.id as u64) ^ mix(u64::from(index)));
        let parser = tools.cloned().map(|reading| Parser::new(reading, key));
        let choice = Choice::new(index, output, self.service.gate.clone(), decoder, parser);
        match past {
            Some(past) => choice.behind(generate.echo.then_some(prompt), &past.tokens),
            None if generate.echo => Ok(choice.with_prompt(prompt.to_vec(), generate.logprobs.is_some())),
            None => Ok(choice),
        }
    }
}

impl Generator {
    fn params(&self, generate: &Generate, seed: u64, choice: u32) -> Params {
        let (asked, makers) = (&generate.sampling, &self.generation);
        let penalty = asked.repetition_penalty.or(makers.repetition_penalty);
        Params {
            temperature: asked.temperature.or(makers.temperature).unwrap_or(1.0),
            top_p: asked.top_p.or(makers.top_p).unwrap_or(1.0),
            top_k: asked.top_k.or(makers.top_k).unwrap_or(0),
            min_p: asked.min_p.or(makers.min_p).unwrap_or(0.0),
            presence_penalty: asked.presence_penalty,
            frequency_penalty: asked.frequency_penalty,
            // A file may say anything.
            repetition_penalty: penalty.unwrap_or(1.0).max(REPETITION_PENALTY_MIN),
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
        Refused::Stopped => ErrorKind::Interrupted,
    };
    ApiError::new(kind, refused.to_string()).retry_after(RETRY_AFTER_S)
}
