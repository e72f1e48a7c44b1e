//! Forms of answers (JSON schemas, regular expressions, grammars) as guides of the engine, by llguidance.
//!
//! What it needs to know of the vocabulary is made at the first request that asks for a form: no cold start pays for it. Forms are
//! read by recursion, which follows chains of references as long as a request has room for: on a thread whose stack has it, too.

use crate::engine::{Guide, Next};
use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie},
};
use models::Tokenizer;
use protocol::{ApiError, ErrorKind, constraint::Form};
use serde_json::{Value, json};
use std::{
    sync::{Arc, OnceLock},
    thread,
};

/// More than any form of [`protocol::constraint::CONSTRAINT_BYTES_MAX`] takes; memory that is not touched is not used.
const STACK_BYTES: usize = 128 << 20;

/// Makes guides for one model's vocabulary.
pub struct Guides {
    tokenizer: Arc<Tokenizer>,
    /// Logits of one row.
    vocab: usize,
    /// The token that ends an answer, where the model has one: it is never part of one.
    end: Option<u32>,
    factory: OnceLock<Result<ParserFactory, String>>,
}

impl Guides {
    /// Knows nothing yet but where to look.
    pub fn new(tokenizer: Arc<Tokenizer>, vocab: usize, end: Option<u32>) -> Self {
        let end = end.filter(|&end| (end as usize) < vocab);
        Self { tokenizer, vocab, end, factory: OnceLock::new() }
    }

    /// This form, understood. Takes milliseconds, the first time tens of them.
    ///
    /// # Errors
    /// What is wrong with the schema, the expression or the grammar.
    pub fn compile(&self, form: &Form) -> Result<Compiled, String> {
        thread::scope(|scope| {
            let reader = thread::Builder::new().name("form".into()).stack_size(STACK_BYTES);
            let reading = reader.spawn_scoped(scope, || self.read(form)).map_err(|e| e.to_string())?;
            reading.join().unwrap_or_else(|_| Err("this form cannot be read".into()))
        })
    }

    fn read(&self, form: &Form) -> Result<Compiled, String> {
        let factory = self.factory.get_or_init(|| self.make_factory()).as_ref().map_err(Clone::clone)?;
        let matcher = Matcher::new(factory.create_parser(grammar(form)));
        match matcher.get_error() {
            Some(e) => Err(e),
            None => Ok(Compiled(matcher)),
        }
    }

    fn make_factory(&self) -> Result<ParserFactory, String> {
        let words: Vec<Vec<u8>> = (0..self.vocab as u32).map(|id| self.word(id)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(self.vocab as u32, self.end.unwrap_or(INVALID_TOKEN)), &words);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|e| e.to_string())?;
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(factory)
    }

    /// A token's bytes; special ones are marked, so that no text can be spelt with them.
    fn word(&self, id: u32) -> Vec<u8> {
        match self.tokenizer.special(id) {
            Some(name) => [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat(),
            None => self.tokenizer.token_bytes(id),
        }
    }
}

fn grammar(form: &Form) -> TopLevelGrammar {
    match form {
        Form::JsonSchema(schema) => TopLevelGrammar::from_json_schema(with_defaults(schema.clone())),
        Form::Regex(expression) => TopLevelGrammar::from_regex(expression),
        Form::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
    }
}

/// JSON on one line, with at most one space behind `:` and `,`: a model that is unsure could otherwise fill its answer with
/// white space.
fn with_defaults(mut schema: Value) -> Value {
    if let Value::Object(map) = &mut schema {
        let one_line = || json!({"whitespace_flexible": false, "key_separator": ": ?", "item_separator": ", ?"});
        map.entry("x-guidance").or_insert_with(one_line);
    }
    schema
}

/// A form that can be followed, by any number of answers.
pub struct Compiled(Matcher);

impl Compiled {
    /// A guide at the form's beginning, with nothing in common with others.
    pub fn guide(&self) -> Box<dyn Guide> {
        Box::new(Following(self.0.deep_clone()))
    }
}

/// One answer's way through its form.
struct Following(Matcher);

impl Guide for Following {
    fn next(&mut self) -> Result<Next, ApiError> {
        self.0.compute_mask_or_eos().map(|mask| mask.as_slice().to_vec().into()).map_err(lost)
    }

    fn accept(&mut self, id: u32) -> Result<(), ApiError> {
        self.0.consume_token(id).map_err(lost)
    }

    fn is_over(&self) -> bool {
        self.0.is_stopped()
    }
}

fn lost(why: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorKind::Internal, format!("the form of the answer cannot be followed: {why}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn guides(end: Option<u32>) -> Guides {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/llama3-tiny/tokenizer.json");
        let tokenizer = Arc::new(Tokenizer::from_json(&std::fs::read(file).unwrap()).unwrap());
        let vocab = tokenizer.vocab_size();
        Guides::new(tokenizer, vocab, end)
    }

    fn allowed(guide: &mut dyn Guide) -> Vec<u32> {
        let mask = guide.next().unwrap().mask.unwrap();
        (0..mask.len() as u32 * 32).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect()
    }

    #[test]
    fn guides_of_one_compiled_form_go_their_own_ways() {
        let guides = guides(Some(1));
        let compiled = guides.compile(&Form::Regex("[ab]{2}".into())).unwrap();
        let (mut one, mut other) = (compiled.guide(), compiled.guide());
        let begin = allowed(&mut *one);
        let letter = guides.tokenizer.encode("a", false).unwrap()[0];
        for _ in 0..2 {
            assert!(!one.is_over());
            one.accept(letter).unwrap();
        }
        assert!(one.is_over() && !other.is_over());
        assert_eq!(allowed(&mut *other), begin);
        assert_eq!(allowed(&mut *compiled.guide()), begin);
    }

    #[test]
    fn a_model_without_an_end_token_is_never_asked_for_one() {
        for end in [None, Some(u32::MAX), Some(100_000)] {
            let guides = guides(end);
            let mut guide = guides.compile(&Form::Regex("a?".into())).unwrap().guide();
            let letter = guides.tokenizer.encode("a", false).unwrap()[0];
            assert_eq!(allowed(&mut *guide), [letter], "an empty answer is one, but nothing says that it is over");
            guide.accept(letter).unwrap();
            assert!(guide.is_over());
        }
    }

    /// A chain of so many links, in an order that a reader has to follow down to its end.
    fn chain(links: usize, link: impl Fn(usize) -> String) -> String {
        (0..links).map(link).collect::<Vec<_>>().concat()
    }

    #[test]
    fn chains_as_long_as_a_request_has_room_for_are_read_without_overflow() {
        let guides = guides(Some(0));
        let lark = |name: &str| {
            format!("start: {name}0\n{}{name}9000: \"a\"\n", chain(9000, |i| format!("{name}{i}: {name}{}\n", i + 1)))
        };
        let schema = |inner: fn(String) -> String| {
            let reference = |i: usize| format!("{{\"$ref\": \"#/$defs/a{i}\"}}");
            let defs = chain(4000, |i| format!("\"a{i}\": {},", inner(reference(i + 1))));
            let all = format!("{{\"$defs\": {{{defs} \"a4000\": {{}}}}, \"$ref\": \"#/$defs/a0\"}}");
            Form::JsonSchema(serde_json::from_str(&all).unwrap())
        };
        for form in [
            Form::Lark(lark("T")),
            Form::Lark(lark("r")),
            Form::Lark(format!("start: {}", "(".repeat(200_000))),
            Form::Regex("(".repeat(200_000)),
            schema(|reference| reference),
            schema(|reference| format!("{{\"allOf\": [{reference}]}}")),
            schema(|reference| format!("{{\"anyOf\": [{reference}, {{\"type\": \"null\"}}]}}")),
        ] {
            // Understood or refused; and what is understood is followed on a thread like any other.
            if let Ok(compiled) = guides.compile(&form) {
                let _ = compiled.guide().next();
            }
        }
    }
}
