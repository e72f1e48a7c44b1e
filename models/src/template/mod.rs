//! The model's own chat template, rendered as transformers renders it. Templates are foreign programs: time, depth and size of
//! what they do are bounded, and they see nothing but the conversation.

mod json;
mod messages;
mod python;
mod time;
mod tools;
mod ways;

use crate::{Error, import::template::Templates};
use minijinja::{Environment, ErrorKind, Value, context};
use serde_json::Value as Json;
use snapshot::{SectionKind, Snapshot};
use std::{collections::BTreeMap, sync::OnceLock, time::SystemTime};
use ways::{Place, Ways};

/// Most instructions one rendering may take; a conversation of thousands of messages needs far fewer.
const FUEL: u64 = 20_000_000;
/// Deepest nesting of calls.
const RECURSION_MAX: usize = 128;
/// Longest prompt, in bytes of text.
const RENDERED_BYTES_MAX: usize = 64 << 20;

/// The names of templates that makers give.
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// The model's own chat template, rendered as transformers does.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token`, `eos_token`, … as the template names them.
    tokens: BTreeMap<String, String>,
    /// What it does with tools; known once a conversation has some.
    ways: OnceLock<Ways>,
}

impl ChatTemplate {
    /// `None` where the model has none.
    ///
    /// # Errors
    /// The section is corrupt, or no template of it parses.
    pub fn from_snapshot(snapshot: &Snapshot) -> Result<Option<Self>, Error> {
        let Some(section) = snapshot.section(SectionKind::Template)? else { return Ok(None) };
        let templates: Templates =
            serde_json::from_slice(section).map_err(|error| Error::BadModel(format!("template section: {error}")))?;
        Self::new(templates)
    }

    pub(crate) fn new(templates: Templates) -> Result<Option<Self>, Error> {
        if templates.by_name.is_empty() {
            return Ok(None);
        }
        let mut environment = environment();
        for (name, text) in templates.by_name {
            environment
                .add_template_owned(name.clone(), without_generation_tags(&text))
                .map_err(|error| Error::BadModel(format!("chat template `{name}`: {error:#}")))?;
        }
        Ok(Some(Self { environment, tokens: templates.tokens, ways: OnceLock::new() }))
    }

    /// `messages`: the JSON array of an OpenAI request. Tools, calls and results go where the template has a place for them;
    /// where it has none, into the text of messages.
    ///
    /// # Errors
    /// [`Error::BadModel`] with the template's own words where it raises one, or with what it could not do;
    /// [`Error::Unsupported`] for parts of messages that are no text.
    pub fn render(&self, messages: &Json, tools: Option<&Json>, add_generation_prompt: bool) -> Result<String, Error> {
        self.render_at(messages, tools, add_generation_prompt, SystemTime::now())
    }

    /// The same as it was at a moment: templates may ask for the date.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_at(
        &self,
        messages: &Json,
        tools: Option<&Json>,
        add_generation_prompt: bool,
        now: SystemTime,
    ) -> Result<String, Error> {
        let messages = messages::prepared(messages)?;
        if !tools::concerns(&messages, tools) {
            return self.render_prepared(&messages.into(), None, add_generation_prompt, now);
        }
        let (messages, tools) = self.ways().adapt(messages, tools);
        self.render_prepared(&messages.into(), tools, add_generation_prompt, now)
    }

    fn render_prepared(
        &self,
        messages: &Json,
        tools: Option<&Json>,
        add_generation_prompt: bool,
        now: SystemTime,
    ) -> Result<String, Error> {
        let template = self.choose(tools.is_some())?;
        let tools = tools.map(Value::from_serialize).unwrap_or_else(|| Value::from(()));
        let tokens = Value::from_serialize(&self.tokens);
        let values = context! {
            messages => Value::from_serialize(messages),
            tools => tools,
            documents => (),
            add_generation_prompt => add_generation_prompt,
            strftime_now => Value::from_function(move |format: &str| time::format(format, now)),
            ..tokens
        };
        let mut text = Bounded(Vec::new());
        template
            .render_captured_to(values, &mut text)
            .map_err(|error| Error::BadModel(format!("chat template: {}", reason(&error))))?;
        String::from_utf8(text.0).map_err(|error| Error::BadModel(format!("chat template: {error}")))
    }

    /// The text of the template for conversations with tools. `None`: it has no place for them, and they are written into a
    /// message that asks for calls of the form `{"name": …, "parameters": {…}}`.
    pub fn source_for_tools(&self) -> Option<String> {
        let template = self.choose(true).ok().filter(|_| self.ways().place != Place::Text)?;
        Some(template.source().to_owned())
    }

    fn ways(&self) -> &Ways {
        self.ways.get_or_init(|| Ways::of(self))
    }

    /// As transformers: `tool_use` where tools are given and there is one, else `default`, else the only one.
    fn choose(&self, with_tools: bool) -> Result<minijinja::Template<'_, '_>, Error> {
        let wanted = if with_tools { [TOOL_USE, DEFAULT] } else { [DEFAULT, DEFAULT] };
        let named = wanted.iter().find_map(|name| self.environment.get_template(name).ok());
        let mut all = self.environment.templates();
        named
            .or_else(|| all.next().filter(|_| all.next().is_none()).map(|(_, only)| only))
            .ok_or_else(|| Error::BadModel("chat template: several, and none is called `default`".into()))
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(false);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_MAX);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(python::write);
    environment.add_filter("string", python::string);
    environment.add_filter("tojson", json::tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment
}

/// transformers marks what an assistant wrote by `{% generation %}`; for rendering it is a block that is always there.
fn without_generation_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("{%") {
        let inside = start + "{%".len();
        // Behind the opening, of which the percent sign is no part of the end.
        let Some(length) = rest[inside..].find("%}") else { break };
        let (tag, after) = (&rest[inside..inside + length], &rest[inside + length + "%}".len()..]);
        out.push_str(&rest[..start]);
        let word = tag.trim_matches(['-', '+']).trim();
        match word {
            "generation" => out.push_str(&format!("{{%{}%}}", tag.replacen(word, "if true", 1))),
            "endgeneration" => out.push_str(&format!("{{%{}%}}", tag.replacen(word, "endif", 1))),
            _ => out.push_str(&rest[start..rest.len() - after.len()]),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The words of `raise_exception` alone, or all that minijinja knows.
fn reason(error: &minijinja::Error) -> String {
    match error.kind() {
        ErrorKind::OutOfFuel => format!("took more than {FUEL} steps"),
        _ => error.to_string(),
    }
}

/// Takes so many bytes and no more.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > RENDERED_BYTES_MAX {
            return Err(std::io::Error::other(format!("the prompt is longer than {RENDERED_BYTES_MAX} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::without_generation_tags;

    #[test]
    fn tags_of_a_generation_are_blocks_and_all_else_stays_as_it_is() {
        let text = "{% generation %}a{%- endgeneration -%}{%}{% if x %}{% endif %}{%";
        assert_eq!(without_generation_tags(text), "{% if true %}a{%- endif -%}{%}{% if x %}{% endif %}{%");
    }
}
