//! The shared vocabulary of `world.wit`, as it crosses the border.

use wasmtime::component::{ComponentType, Lift, Lower};

/// `types.message`.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what a template knows.
    pub role: String,
    /// Its text.
    pub content: String,
}

/// `types.prompt`.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum Prompt {
    /// Rendered by the model's own template.
    #[component(name = "chat")]
    Chat(Vec<Message>),
    /// Raw.
    #[component(name = "text")]
    Text(String),
}

/// `types.grammar`.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum Grammar {
    /// A JSON schema, as JSON.
    #[component(name = "json-schema")]
    JsonSchema(String),
    /// A regular expression.
    #[component(name = "regex")]
    Regex(String),
    /// A grammar in Lark's language.
    #[component(name = "lark")]
    Lark(String),
}

/// `types.sampling`.
#[derive(Clone, Debug, Default, PartialEq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// Nucleus.
    #[component(name = "top-p")]
    pub top_p: Option<f32>,
    /// Tokens to generate at most.
    #[component(name = "max-tokens")]
    pub max_tokens: Option<u32>,
    /// The generator's key.
    pub seed: Option<u64>,
    /// Strings that end the generation and are not sent.
    pub stop: Vec<String>,
    /// What the answer has to be.
    pub grammar: Option<Grammar>,
}

/// `types.request`.
#[derive(Clone, Debug, PartialEq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Request {
    /// As the client named it.
    pub model: String,
    /// What is to be answered.
    pub prompt: Prompt,
    /// How.
    pub sampling: Sampling,
    /// Whatever the client says of the request.
    pub metadata: Vec<(String, String)>,
}

/// `types.finish`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum Finish {
    /// By itself, a stop string, or a guest.
    #[component(name = "stop")]
    Stop,
    /// At the limit.
    #[component(name = "length")]
    Length,
    /// With calls of tools.
    #[component(name = "tool-calls")]
    ToolCalls,
    /// Cut by a filter.
    #[component(name = "content-filter")]
    ContentFilter,
    /// The client has gone.
    #[component(name = "cancelled")]
    Cancelled,
}

/// `types.usage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Usage {
    /// Tokens of the prompt.
    #[component(name = "prompt-tokens")]
    pub prompt_tokens: u32,
    /// Tokens that were generated.
    #[component(name = "completion-tokens")]
    pub completion_tokens: u32,
    /// Time in the prompt, in microseconds.
    #[component(name = "prefill-us")]
    pub prefill_us: u64,
    /// Time from the first token to the last, in microseconds.
    #[component(name = "decode-us")]
    pub decode_us: u64,
}

/// `on-response.response`.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Response {
    /// The answer's text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// What it used.
    pub usage: Usage,
}

/// `types.rejection`.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Rejection {
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// OpenAI's `code`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// `on-request.verdict`.
#[derive(Clone, Debug, PartialEq, ComponentType, Lift, Lower)]
#[component(variant)]
pub(crate) enum Said {
    #[component(name = "pass")]
    Pass,
    #[component(name = "replace")]
    Replace(Request),
    #[component(name = "answer")]
    Answer(String),
}

/// `on-text.edit`.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub(crate) struct Edit {
    pub consumed: u32,
    pub emit: Option<String>,
    pub stop: bool,
}

/// `on-token.bias`.
#[derive(Clone, Copy, Debug, PartialEq, ComponentType, Lift, Lower)]
#[component(record)]
pub(crate) struct Bias {
    pub token: u32,
    pub add: f32,
}

/// `on-token.constraint`.
#[derive(Clone, Debug, PartialEq, ComponentType, Lift, Lower)]
#[component(variant)]
pub(crate) enum Constraint {
    #[component(name = "free")]
    Free,
    #[component(name = "bias")]
    Bias(Vec<Bias>),
    #[component(name = "mask")]
    Mask(Vec<u32>),
    #[component(name = "force")]
    Force(Vec<u32>),
    #[component(name = "stop")]
    Stop,
}

/// `host.level`.
#[expect(dead_code, reason = "made by guests alone")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub(crate) enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

/// `state.error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub(crate) enum StateError {
    /// Never said: who may not have state cannot import it.
    #[expect(dead_code, reason = "a part of the contract")]
    #[component(name = "denied")]
    Denied,
    #[component(name = "too-large")]
    TooLarge,
    #[component(name = "unavailable")]
    Unavailable,
}
