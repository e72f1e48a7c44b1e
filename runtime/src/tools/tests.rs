use super::*;
use proptest::prelude::*;

const FORMATS: [Format; 5] = [Format::Hermes, Format::Mistral, Format::MistralNamed, Format::Phi, Format::Json];

fn parser(format: Format, parallel: bool) -> Parser {
    let names = ["f", "g", "get_it", "now"].map(str::to_owned).into();
    Parser::new(Reading { format, names, parallel }, 7)
}

/// Content, and each call's name and arguments; the text in pieces of these lengths.
fn parse(mut parser: Parser, text: &str, cuts: &[usize]) -> (String, Vec<(String, String)>) {
    let (mut content, mut calls) = (String::new(), Vec::<(String, String)>::new());
    let chars: Vec<char> = text.chars().collect();
    let (mut rest, mut cuts) = (&chars[..], cuts.iter().cycle());
    let mut gather = |parsed: Parsed| {
        content += &parsed.content;
        for delta in parsed.calls {
            if let Some((id, name)) = delta.begins {
                assert!(id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric()), "{id}");
                assert_eq!(delta.index as usize, calls.len());
                calls.push((name, String::new()));
            }
            calls[delta.index as usize].1 += &delta.arguments;
        }
    };
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(rest.len().min(*cuts.next().unwrap_or(&1)));
        gather(parser.push(&piece.iter().collect::<String>()));
        rest = more;
    }
    gather(parser.finish());
    (content, calls)
}

type Case = (Format, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const CALLS: &[Case] = &[
    (
        Format::Hermes,
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}\n</tool_call>",
        "",
        &[("f", r#"{"a": [1, "}"]}"#)],
    ),
    (
        Format::Hermes,
        "Let me look. <tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>{\"arguments\": {\"x\":\"ü\"}, \"name\": \"g\"}</tool_call>\n",
        "Let me look.",
        &[("f", "{}"), ("g", r#"{"x":"ü"}"#)],
    ),
    (
        Format::Hermes,
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"\\\"{\"",
        "",
        &[("f", "{\"a\": \"\\\"{\"")],
    ),
    (
        Format::Hermes,
        "<tool_call>{\"name\": \"now\"}</tool_call><tool_call>{\"name\": \"f\", \"arguments\": null}</tool_c",
        "",
        &[("now", "{}"), ("f", "{}")],
    ),
    (
        Format::Hermes,
        "<tool_call>\n{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}\n{\"type\": \"function\", \"name\": \"g\", \"arguments\": {}, \"id\": 7}",
        "",
        &[("f", r#"{"a": 1}"#), ("g", "{}")],
    ),
    // The last brace, or the closing mark, is missing.
    (Format::Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {}</tool_call> Done.", " Done.", &[("f", "{}")]),
    (Format::Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {}}\nI wait.", "\nI wait.", &[("f", "{}")]),
    (
        Format::Mistral,
        "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}}]",
        "",
        &[("f", r#"{"a": 1}"#), ("g", "{}")],
    ),
    (
        Format::Mistral,
        "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}]\n\nI called [it].",
        "\n\nI called [it].",
        &[("f", "{}")],
    ),
    (Format::Mistral, "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}, ", "", &[("f", "{}")]),
    (
        Format::MistralNamed,
        "[TOOL_CALLS]get_it[ARGS]{\"a\": {\"b\": 2}}[TOOL_CALLS]g[CALL_ID]123456789[ARGS]{}",
        "",
        &[("get_it", r#"{"a": {"b": 2}}"#), ("g", "{}")],
    ),
    (Format::MistralNamed, "[TOOL_CALLS]f{\"a\": 1} so", " so", &[("f", r#"{"a": 1}"#)]),
    (Format::MistralNamed, "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}]", "", &[("f", "{}")]),
    (
        Format::Phi,
        "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"q\": \"x\"}}]<|/tool_call|>",
        "",
        &[("f", r#"{"q": "x"}"#)],
    ),
    (Format::Phi, "functools[{\"name\": \"f\", \"arguments\": {}}]", "", &[("f", "{}")]),
    (Format::Json, "{\"name\": \"f\", \"parameters\": {\"a\": null}}", "", &[("f", r#"{"a": null}"#)]),
    (Format::Json, "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}", "", &[("f", "{}")]),
    (
        Format::Json,
        " \n{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {\"b\":[]}}",
        "",
        &[("f", "{}"), ("g", r#"{"b":[]}"#)],
    ),
    (
        Format::Json,
        "```json\n[{\"name\": \"f\", \"parameters\": {}},\n{\"name\": \"g\", \"parameters\": {}}]\n```\nthere",
        "\nthere",
        &[("f", "{}"), ("g", "{}")],
    ),
    (Format::Json, "{\"name\": \"now\"}", "", &[("now", "{}")]),
];

/// No calls: all of it is content.
const CONTENT: &[(Format, &str)] = &[
    (Format::Hermes, "no call < here, <tool"),
    (Format::Hermes, "Use the <tool_call> tag to call, and </tool_call> behind it.\n"),
    (Format::Hermes, "<tool_call>{\"name\": \"unknown\", \"arguments\": {\"a\": 1}}</tool_call>\n"),
    (Format::Hermes, "a <tool_call>\n{\"name\": \"f\", \"arguments\": [1]}</tool_call>"),
    (Format::Hermes, "<tool_call>{\"name\": \"f\", \"arg"),
    (Format::Mistral, "[TOOL_CALLS] is a mark, [TOOL_CALLS][] too"),
    (Format::MistralNamed, "[TOOL_CALLS]unknown[ARGS]{}"),
    (Format::MistralNamed, "[TOOL_CALLS]f[ARGS] nothing"),
    (Format::Phi, "from functools import reduce"),
    (Format::Json, "It is {\"name\": 1}."),
    (Format::Json, "{\"name\":\"Hope\",\"masts\":3}"),
    (Format::Json, "{\"name\": \"f\", \"masts\": 3}"),
    (Format::Json, "{\"answer\": 42} is all"),
    (Format::Json, "{\"half\": "),
    (Format::Json, "<|python"),
    (Format::Json, "```js\n{\"name\": \"f\"}"),
    (Format::Json, "[1, 2, {\"name\": \"f\", \"parameters\": {}}]"),
];

#[test]
fn calls_of_every_format_are_read_and_the_rest_is_content() {
    let none: &[(&str, &str)] = &[];
    let content = CONTENT.iter().map(|&(format, text)| (format, text, text, none));
    for (format, text, content, calls) in CALLS.iter().copied().chain(content) {
        let calls: Vec<_> = calls.iter().map(|(name, arguments)| (name.to_string(), arguments.to_string())).collect();
        for cuts in [&[1][..], &[1000], &[3, 1, 7]] {
            let got = parse(parser(format, true), text, cuts);
            assert_eq!(got, (content.to_owned(), calls.clone()), "{format:?}: {text}");
        }
    }
}

#[test]
fn without_parallel_calls_an_answer_is_over_behind_the_first() {
    for &(format, text, _, calls) in CALLS.iter().filter(|case| case.3.len() > 1) {
        let mut parser = parser(format, false);
        assert!(!parser.push("").calls.iter().any(|_| true) && !parser.is_over());
        let parsed = parser.push(text);
        assert!(parser.is_over(), "{text}");
        assert_eq!(parsed.calls.len(), 1, "{text}");
        assert_eq!(parsed.calls[0].arguments, calls[0].1, "{text}");
        assert_eq!(parser.finish(), Parsed::default());
    }
}

proptest! {
    #[test]
    fn cutting_elsewhere_changes_nothing_and_what_is_no_call_is_content(
        format in 0usize..5, parts in proptest::collection::vec(0usize..20, 0..24), cuts in proptest::collection::vec(1usize..9, 1..30)
    ) {
        let words = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|tool_call|>", "{", "}", "\"name\": \"f\"", ", ",
            "\"arguments\": ", "[1, 2]", "\"\\", "é ", "<|python_tag|>", "{\"name\": \"get_it\", \"arguments\": {", "[", "]", "\n", "```", "f"];
        let text: String = parts.iter().map(|&part| words[part]).collect();
        let parsed = parse(parser(FORMATS[format], true), &text, &cuts);
        prop_assert_eq!(&parsed, &parse(parser(FORMATS[format], true), &text, &[1]));
        let mut chars = text.chars();
        prop_assert!(parsed.0.chars().all(|c| chars.any(|other| other == c)), "{} of {}", parsed.0, text);
        prop_assert!(!parsed.1.is_empty() || parsed.0 == text, "{} of {}", parsed.0, text);
    }
}
