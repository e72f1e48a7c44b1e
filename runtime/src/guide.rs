//! Forms of answers (JSON schemas, regular expressions, grammars) as guides of the engine, by llguidance.
//!
//! What it needs to know of the vocabulary is made at the first request that asks for a form: no cold start pays for it.

use crate::engine::{Guide, Mask};
use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie},
};
use models::Tokenizer;
use protocol::constraint::Form;
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};

/// Makes guides for one model's vocabulary.
pub struct Guides {
    tokenizer: Arc<Tokenizer>,
    /// Logits of one row.
    vocab: usize,
    /// The token that ends an answer.
    end: u32,
    factory: OnceLock<Result<ParserFactory, String>>,
}

impl Guides {
    /// Knows nothing yet but where to look.
    pub fn new(tokenizer: Arc<Tokenizer>, vocab: usize, end: u32) -> Self {
        Self { tokenizer, vocab, end, factory: OnceLock::new() }
    }

    /// A guide through this form. Takes milliseconds, the first time tens of them.
    ///
    /// # Errors
    /// What is wrong with the schema, the expression or the grammar.
    pub fn guide(&self, form: &Form) -> Result<Box<dyn Guide>, String> {
        let factory = self.factory.get_or_init(|| self.make_factory()).as_ref().map_err(Clone::clone)?;
        let matcher = Matcher::new(factory.create_parser(grammar(form)));
        match matcher.get_error() {
            Some(e) => Err(e),
            None => Ok(Box::new(Following(matcher))),
        }
    }

    fn make_factory(&self) -> Result<ParserFactory, String> {
        let words: Vec<Vec<u8>> = (0..self.vocab as u32).map(|id| self.word(id)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(self.vocab as u32, self.end), &words);
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

/// One answer's way through its form.
struct Following(Matcher);

impl Guide for Following {
    fn mask(&mut self) -> Result<Mask, String> {
        self.0.compute_mask_or_eos().map(|mask| mask.as_slice().to_vec()).map_err(|e| e.to_string())
    }

    fn accept(&mut self, id: u32) -> Result<(), String> {
        self.0.consume_token(id).map_err(|e| e.to_string())
    }

    fn is_over(&self) -> bool {
        self.0.is_stopped()
    }
}
