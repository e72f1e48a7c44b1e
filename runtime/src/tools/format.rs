//! How families of models write tool calls. A new one is a variant here and its marks.

use models::{ChatTemplate, Tokenizer};
use protocol::{
    constraint::Form,
    tools::{Function, Tools},
};
use serde_json::Value;

/// A way of writing calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, several one after the other (Hermes, Qwen 2.5 and 3).
    Hermes,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]` (Mistral).
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{…}`, several one after the other (Mistral since 2025).
    MistralNamed,
    /// `<|tool_call|>[{"name": …, "arguments": {…}}, …]<|/tool_call|>`, or `functools[…]` (Phi-4-mini).
    Phi,
    /// The whole answer is `{"name": …, "parameters": {…}}`, or several: Llama 3, whatever else has templates with tools, and what
    /// [`ChatTemplate`] asks for where a template has no place for them.
    Json,
}

impl Format {
    /// How a model with this template writes calls.
    pub fn of(template: &ChatTemplate) -> Self {
        template.source_for_tools().map_or(Self::Json, |text| Self::of_text(&text))
    }

    /// What a template that lists tools asks the model to write.
    fn of_text(text: &str) -> Self {
        let has = |mark: &str| text.contains(mark);
        match () {
            () if has("<tool_call>") => Self::Hermes,
            () if has("[TOOL_CALLS]") && has("[ARGS]") => Self::MistralNamed,
            () if has("[TOOL_CALLS]") => Self::Mistral,
            () if has("<|tool_call|>") || has("<|tool|>") => Self::Phi,
            () => Self::Json,
        }
    }

    /// What stands before calls, the usual first; none: the answer begins with them.
    pub(super) fn open(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &["<tool_call>"],
            Self::Mistral | Self::MistralNamed => &["[TOOL_CALLS]"],
            Self::Phi => &["<|tool_call|>", "functools"],
            Self::Json => &[],
        }
    }

    /// What stands behind them.
    pub(super) fn close(self) -> Option<&'static str> {
        match self {
            Self::Hermes => Some("</tool_call>"),
            Self::Phi => Some("<|/tool_call|>"),
            Self::Mistral | Self::MistralNamed | Self::Json => None,
        }
    }

    /// A grammar whose words are calls of these functions, with arguments that their schemas allow.
    pub fn grammar(self, tools: &Tools, tokenizer: &Tokenizer) -> Form {
        let mark = |mark: Option<&str>| mark.map_or(String::new(), |mark| terminal(mark, tokenizer));
        let (open, close) = (mark(self.open().first().copied()), mark(self.close()));
        let several = tools.parallel;
        let mut rules = match (self, several) {
            (Self::Hermes | Self::MistralNamed, true) => format!("start: ({open} call {close})+\n"),
            (Self::Hermes | Self::MistralNamed, false) => format!("start: {open} call {close}\n"),
            (Self::Mistral | Self::Phi, true) => format!("start: {open} \"[\" call (\", \" call)* \"]\" {close}\n"),
            (Self::Mistral | Self::Phi, false) => format!("start: {open} \"[\" call \"]\" {close}\n"),
            (Self::Json, _) => "start: call\n".to_owned(),
        };
        let calls: Vec<String> = (0..tools.functions.len()).map(|i| format!("call_{i}")).collect();
        rules += &format!("call: {}\n", calls.join(" | "));
        for (i, Function { name, parameters }) in tools.functions.iter().enumerate() {
            let call = match self {
                Self::MistralNamed => format!("{} {} arguments_{i}", quoted(name), terminal("[ARGS]", tokenizer)),
                _ => {
                    let key = if self == Self::Json { "parameters" } else { "arguments" };
                    let before = format!("{{\"name\": {}, \"{key}\": ", Value::from(name.as_str()));
                    format!("{} arguments_{i} \"}}\"", quoted(&before))
                }
            };
            // A schema of its own, so that references in it begin at its own root.
            rules += &format!("call_{i}: {call}\narguments_{i}: %json {}\n", one_line(parameters));
        }
        Form::Lark(rules)
    }
}

/// A mark as the vocabulary has it: one special token, or text.
fn terminal(mark: &str, tokenizer: &Tokenizer) -> String {
    match tokenizer.token_id(mark).filter(|&id| tokenizer.special(id).is_some()) {
        Some(id) => format!("<[{id}]>"),
        None => quoted(mark),
    }
}

/// Lark's strings are escaped as JSON's are.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// As for answers with a schema: no white space to fill an answer with.
fn one_line(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(map) = &mut schema {
        map.entry("type").or_insert_with(|| "object".into());
        let options =
            serde_json::json!({"whitespace_flexible": false, "key_separator": ": ?", "item_separator": ", ?"});
        map.entry("x-guidance").or_insert(options);
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_says_its_format() {
        for (text, format) in [
            ("{% if tools %}… within <tool_call></tool_call> …{% endif %}", Format::Hermes),
            ("{{ '[TOOL_CALLS]' + call.name + '[ARGS]' }}", Format::MistralNamed),
            ("{{ '[AVAILABLE_TOOLS]' }}{{ '[TOOL_CALLS]' }}", Format::Mistral),
            ("<|tool|>{{ tools }}<|/tool|> <|tool_call|>", Format::Phi),
            ("{{ message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' }}", Format::Phi),
            ("Given the functions {{ tools }} respond in {\"name\":", Format::Json),
        ] {
            assert_eq!(Format::of_text(text), format, "{text}");
        }
    }
}
