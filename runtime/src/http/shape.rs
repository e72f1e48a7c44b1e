//! Pieces of choices in the clients' two shapes: chat and text completion.

use crate::{
    engine::Logprobs,
    service::Service,
    text::{Piece, PieceToken, Totals},
    tools::CallDelta,
};
use models::Tokenizer;
use protocol::{
    Generate,
    answer::{
        CHAT_CHUNK_OBJECT, CHAT_OBJECT, COMPLETION_OBJECT, ChatChoice, ChatChunk, ChatChunkChoice, ChatDelta,
        ChatLogprobs, ChatMessage, Completion, CompletionChoice, CompletionLogprobs, Envelope, FinishReason,
        FunctionCall, TokenLogprob, ToolCall, ToolCallDelta, TopLogprob,
    },
    resume::AnswerKey,
    sse,
};
use serde_json::{Map, Value};
use std::{fmt::Write, sync::Arc, time::SystemTime};

/// What all chunks of one answer have in common.
pub struct Shape {
    id: String,
    created: u64,
    model: String,
    chat: bool,
    /// Choices in all.
    pub choices: usize,
    /// A last chunk with `usage` is wanted.
    pub include_usage: bool,
    wants_logprobs: bool,
    names: TokenNames,
}

/// A choice as a whole.
#[derive(Default)]
pub struct Gathered {
    /// All its text.
    pub text: String,
    /// All its calls of tools.
    pub calls: Vec<ToolCall>,
    /// All its tokens, where asked for.
    pub tokens: Vec<PieceToken>,
    /// Why it ended.
    pub finish: Option<FinishReason>,
    /// Its tokens, as they are counted to who asked.
    pub counted: u32,
}

impl Gathered {
    /// Puts parts of calls together.
    pub fn add_calls(&mut self, deltas: Vec<CallDelta>) {
        for CallDelta { begins, arguments, .. } in deltas {
            if let Some((id, name)) = begins {
                let function = FunctionCall { name: Some(name), arguments: String::new() };
                self.calls.push(ToolCall { id, kind: "function".into(), function });
            }
            if let Some(call) = self.calls.last_mut() {
                call.function.arguments += &arguments;
            }
        }
    }
}

impl Shape {
    /// `key`: who the answer is, where somebody has said so.
    pub fn new(service: &Service, generate: &Generate, chat: bool, choices: usize, key: Option<AnswerKey>) -> Self {
        let AnswerKey { id, created } = key.unwrap_or_else(|| AnswerKey::new(SystemTime::now()));
        let prefix = if chat { "chatcmpl" } else { "cmpl" };
        Self {
            id: format!("{prefix}-{id:032x}"),
            created,
            model: service.model.clone(),
            chat,
            choices,
            include_usage: generate.include_usage,
            wants_logprobs: generate.logprobs.is_some(),
            names: TokenNames { tokenizer: service.tokenizer.clone(), as_ids: generate.return_tokens_as_token_ids },
        }
    }

    /// One piece as an event. `first`: of its choice. `totals`: in the last chunk of a stream.
    pub fn chunk(&self, piece: Piece, first: bool, totals: Option<&Totals>) -> String {
        let (index, finish_reason) = (piece.index, piece.last.map(|(reason, _)| reason));
        let tokens = if piece.tokens.is_empty() { None } else { Some(piece.tokens.as_slice()) };
        if self.chat {
            let role = first.then(|| "assistant".to_owned());
            // An empty text says something only beside the role.
            let content = (first && piece.calls.is_empty() || !piece.text.is_empty()).then_some(piece.text);
            let tool_calls = piece.calls.into_iter().map(call_delta).collect();
            let logprobs = tokens.map(|t| self.names.chat(t));
            let choice =
                ChatChunkChoice { index, delta: ChatDelta { role, content, tool_calls }, logprobs, finish_reason };
            sse::event::<ChatChunk>(&self.envelope(CHAT_CHUNK_OBJECT, vec![choice], None, totals))
        } else {
            let logprobs = tokens.map(|t| self.names.completion(t));
            let choice = CompletionChoice { text: piece.text, index, logprobs, finish_reason };
            sse::event::<Completion>(&self.envelope(COMPLETION_OBJECT, vec![choice], None, totals))
        }
    }

    /// The chunk with `usage` and no choices.
    pub fn usage_chunk(&self, totals: &Totals) -> String {
        if self.chat {
            sse::event(&self.envelope::<ChatChunkChoice>(CHAT_CHUNK_OBJECT, Vec::new(), Some(totals), Some(totals)))
        } else {
            sse::event(&self.envelope::<CompletionChoice>(COMPLETION_OBJECT, Vec::new(), Some(totals), Some(totals)))
        }
    }

    /// The whole answer as JSON.
    pub fn whole(&self, gathered: Vec<Gathered>, totals: &Totals) -> String {
        let numbered = (0u32..).zip(gathered);
        let json = if self.chat {
            let choices = numbered.map(|(index, g)| self.chat_choice(index, g)).collect();
            serde_json::to_string(&self.envelope(CHAT_OBJECT, choices, Some(totals), Some(totals)))
        } else {
            let choices = numbered.map(|(index, g)| self.completion_choice(index, g)).collect();
            serde_json::to_string(&self.envelope(COMPLETION_OBJECT, choices, Some(totals), Some(totals)))
        };
        json.expect("answers have string keys and serialise")
    }

    fn chat_choice(&self, index: u32, g: Gathered) -> ChatChoice {
        let content = (g.calls.is_empty() || !g.text.is_empty()).then_some(g.text);
        let message = ChatMessage { role: "assistant".into(), content, refusal: None, tool_calls: g.calls };
        let logprobs = self.wants_logprobs.then(|| self.names.chat(&g.tokens));
        ChatChoice { index, message, logprobs, finish_reason: g.finish }
    }

    fn completion_choice(&self, index: u32, g: Gathered) -> CompletionChoice {
        let logprobs = self.wants_logprobs.then(|| self.names.completion(&g.tokens));
        CompletionChoice { text: g.text, index, logprobs, finish_reason: g.finish }
    }

    fn envelope<C>(
        &self,
        object: &str,
        choices: Vec<C>,
        usage: Option<&Totals>,
        timings: Option<&Totals>,
    ) -> Envelope<C> {
        Envelope {
            id: self.id.clone(),
            object: object.into(),
            created: self.created,
            model: self.model.clone(),
            choices,
            usage: usage.map(Totals::usage),
            timings: timings.map(Totals::timings),
        }
    }
}

fn call_delta(delta: CallDelta) -> ToolCallDelta {
    let CallDelta { index, begins, arguments } = delta;
    let (id, name) = begins.unzip();
    let kind = id.as_ref().map(|_| "function".to_owned());
    ToolCallDelta { index, id, kind, function: FunctionCall { name, arguments } }
}

/// How tokens are called in `logprobs`.
struct TokenNames {
    tokenizer: Arc<Tokenizer>,
    /// `token_id:N`
    as_ids: bool,
}

impl TokenNames {
    fn chat(&self, tokens: &[PieceToken]) -> ChatLogprobs {
        let top = |&(id, logprob): &(u32, f32)| {
            let (token, bytes) = self.text(id);
            TopLogprob { token, logprob, bytes }
        };
        let one = |t: &PieceToken| {
            let (token, bytes) = self.text(t.id);
            let Logprobs { chosen, top: likeliest } = t.logprobs.as_ref()?;
            let top_logprobs = likeliest.iter().map(top).collect();
            Some(TokenLogprob { token, logprob: *chosen, bytes, top_logprobs })
        };
        ChatLogprobs { content: tokens.iter().filter_map(one).collect(), refusal: None }
    }

    fn completion(&self, tokens: &[PieceToken]) -> CompletionLogprobs {
        let mut lists = CompletionLogprobs::default();
        for t in tokens {
            lists.tokens.push(self.key(t.id));
            lists.token_logprobs.push(t.logprobs.as_ref().map(|logprobs| logprobs.chosen));
            lists.top_logprobs.push(t.logprobs.as_ref().map(|logprobs| self.top(t.id, logprobs)));
            lists.text_offset.push(t.offset);
        }
        lists
    }

    /// The likeliest tokens and the chosen one, which has its own name; others of the same text have longer ones.
    fn top(&self, token: u32, logprobs: &Logprobs) -> Map<String, Value> {
        let (own, mut top) = (self.key(token), Map::new());
        let likeliest = logprobs.top.iter().copied();
        let chosen = likeliest.clone().all(|(id, _)| id != token).then_some((token, logprobs.chosen));
        for (id, logprob) in likeliest.chain(chosen) {
            let names = [self.key(id), spelt(&self.tokenizer.token_bytes(id)), format!("token_id:{id}")];
            let is_free = |name: &String| !top.contains_key(name) && (id == token || *name != own);
            if let Some(name) = names.into_iter().find(is_free) {
                top.insert(name, Value::from(logprob));
            }
        }
        top
    }

    /// As the chat endpoint shows it: broken characters as U+FFFD, with the bytes beside.
    fn text(&self, id: u32) -> (String, Option<Vec<u8>>) {
        let bytes = self.tokenizer.token_bytes(id);
        let text = if self.as_ids { format!("token_id:{id}") } else { String::from_utf8_lossy(&bytes).into_owned() };
        (text, Some(bytes))
    }

    /// As the text endpoint shows it: as keys must differ, tokens that are no whole characters are `bytes:\xe2\x80`.
    fn key(&self, id: u32) -> String {
        if self.as_ids {
            return format!("token_id:{id}");
        }
        String::from_utf8(self.tokenizer.token_bytes(id)).unwrap_or_else(|broken| spelt(broken.as_bytes()))
    }
}

/// `bytes:\xe2\x80`
fn spelt(bytes: &[u8]) -> String {
    bytes.iter().fold("bytes:".to_owned(), |mut key, byte| {
        write!(key, "\\x{byte:02x}").expect("writing to a string cannot fail");
        key
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_the_same_text_keep_their_own_log_probabilities() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/llama3-tiny/tokenizer.json");
        let tokenizer = Arc::new(Tokenizer::from_json(&std::fs::read(file).unwrap()).unwrap());
        let a = tokenizer.encode("a", false).unwrap()[0];
        // Ids beyond the vocabulary are all spelt as nothing.
        let top = |names: &TokenNames, chosen, likeliest: &[(u32, f32)]| {
            let chosen_logprob = likeliest.iter().find(|(id, _)| *id == chosen).map_or(-9.0, |(_, logprob)| *logprob);
            let logprobs = Logprobs { chosen: chosen_logprob, top: likeliest.to_vec() };
            Value::from(names.top(chosen, &logprobs))
        };
        let names = TokenNames { tokenizer: tokenizer.clone(), as_ids: false };
        let four = [(90_001, -1.0), (90_002, -2.0), (a, -3.0), (90_003, -4.0)];
        let expected = serde_json::json!({"bytes:": -1.0, "": -2.0, "a": -3.0, "token_id:90003": -4.0});
        assert_eq!(top(&names, 90_002, &four), expected);
        let expected =
            serde_json::json!({"bytes:": -1.0, "token_id:90002": -2.0, "a": -3.0, "token_id:90003": -4.0, "": -9.0});
        assert_eq!(top(&names, 90_004, &four), expected, "one that is not among the likeliest");
        let ids = TokenNames { tokenizer, as_ids: true };
        assert_eq!(top(&ids, a, &[(a, -1.0)]), serde_json::json!({format!("token_id:{a}"): -1.0}));
    }
}
