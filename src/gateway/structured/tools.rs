//! Grammars for calls of tools: text that may turn into calls, or calls and nothing else.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::grammar::{WHITESPACE, with_options};
use super::schema;
use crate::engine::Grammar;

/// A tool that a model may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// A JSON schema of its arguments.
    pub parameters: Json,
}

/// How a family of models writes a call: `begin`, a JSON object of name and arguments, `end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolSyntax {
    /// What begins a call, such as `<tool_call>`. Where text has it, a call follows.
    pub begin: String,
    /// What ends it, such as `</tool_call>`; may be empty.
    pub end: String,
    /// The key of the arguments: `arguments` or `parameters`.
    pub arguments: String,
}

/// Which calls there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// Text, and calls between it or not.
    Free,
    /// One call or more, and no text.
    Required,
    /// One call, and no text.
    One,
}

/// The grammar of answers that call these tools, each with arguments of its schema. For a named choice, give that tool
/// alone. An error names the tool and what of its schema is not supported.
pub(super) fn tool_calls(tools: &[Tool], syntax: &ToolSyntax, calls: Calls) -> Result<Grammar, String> {
    if tools.is_empty() || syntax.begin.is_empty() {
        return Err("there is no tool to call, or nothing that begins a call".into());
    }
    let begin = json!(syntax.begin);
    let end = if syntax.end.is_empty() { String::new() } else { json!(syntax.end).to_string() };
    let mut lark = match calls {
        // a lazy lexeme ends where its suffix first does, so plain text has no beginning of a call in it
        Calls::Free => format!(
            "start: (before call)* TEXT?\nTEXT: /(?s:.+)/\nbefore[lazy]: /(?s:.*){}/\n",
            regex::escape(&syntax.begin).replace('/', "\\/")
        ),
        Calls::Required => format!("start: one (\"\\n\"? one)*\none: {begin} call\n"),
        Calls::One => format!("start: {begin} call\n"),
    };
    let names: Vec<String> = (0..tools.len()).map(|i| format!("tool_{i}")).collect();
    let _ = writeln!(lark, "call: \"\\n\"? ({}) \"\\n\"? {end}", names.join(" | "));
    for (name, tool) in names.iter().zip(tools) {
        let _ = writeln!(lark, "{name}: %json {}", call_schema(tool, &syntax.arguments)?);
    }
    Ok(Grammar::from_lark(lark))
}

/// The schema of a whole call. References of the parameters begin at their own root, which moves with them.
fn call_schema(tool: &Tool, arguments: &str) -> Result<Json, String> {
    let Tool { name, parameters } = tool;
    schema::check(parameters).map_err(|why| format!("`{name}`: {why}"))?;
    let mut parameters = parameters.clone();
    move_references(&mut parameters, arguments);
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["name", arguments],
        "properties": { "name": { "const": name }, arguments: parameters },
    });
    Ok(with_options(schema, WHITESPACE))
}

/// Makes references within a schema ones from the root of a call.
fn move_references(schema: &mut Json, arguments: &str) {
    match schema {
        Json::Object(members) => {
            for (keyword, value) in members {
                match value {
                    Json::String(reference) if keyword == "$ref" => {
                        let path = reference.trim_start_matches('#').trim_end_matches('/');
                        *reference = format!("#/properties/{arguments}{path}");
                    }
                    // data, and not schemas
                    _ if matches!(keyword.as_str(), "const" | "enum" | "default" | "examples") => {}
                    value => move_references(value, arguments),
                }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(|item| move_references(item, arguments)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::{Constraint, GrammarCompiler};
    use crate::model::{SpecialTokens, Tokenizer};

    fn tokenizer() -> Tokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/v1");
        Tokenizer::from_file(&folder.join("tokenizer.json")).unwrap()
    }

    fn hermes() -> ToolSyntax {
        let (begin, end) = ("<tool_call>".to_owned(), "</tool_call>".to_owned());
        ToolSyntax { begin, end, arguments: "arguments".to_owned() }
    }

    fn tools() -> Vec<Tool> {
        let tree = json!({"type": "object", "additionalProperties": false, "required": ["child"], "$defs": {
                "node": {"type": ["integer", "null"]}},
            "properties": {"child": {"anyOf": [{"$ref": "#/$defs/node"}, {"$ref": "#"}]}}});
        let weather = json!({"type": "object", "additionalProperties": false, "required": ["city"],
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}});
        let tool = |name: &str, parameters| Tool { name: name.to_owned(), parameters };
        vec![tool("weather", weather), tool("tree", tree)]
    }

    fn constraint(calls: Calls) -> Constraint {
        let compiler = GrammarCompiler::new(&tokenizer(), 1024, &[2]).unwrap();
        compiler.compile(tool_calls(&tools(), &hermes(), calls).unwrap()).unwrap()
    }

    /// Whether a text is an answer of a grammar.
    fn is_answer(constraint: &Constraint, text: &str) -> bool {
        constraint.accepts(&tokenizer().encode(text, SpecialTokens::Parse).unwrap())
    }

    const WEATHER: &str = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 2}}\n</tool_call>";
    const TREE: &str =
        "<tool_call>{\"name\":\"tree\",\"arguments\":{\"child\":{\"child\":{\"child\":3}}}}</tool_call>";

    #[test]
    fn text_is_free_until_a_call_begins_and_the_call_keeps_to_its_tool() {
        let free = constraint(Calls::Free);
        for text in [
            "Just text, with <tags> and {\"json\": 1}.".to_owned(),
            WEATHER.to_owned(),
            format!("Let me see.\n{WEATHER}"),
            format!("{WEATHER}{TREE}"),
            format!("One: {WEATHER}\nAnd another: {TREE}\nDone."),
        ] {
            assert!(is_answer(&free, &text), "{text}");
        }
        for text in [
            "Now <tool_call> is only a word".to_owned(),
            WEATHER.replace("Oslo\"", "Oslo\", \"more\": \"x\""),
            WEATHER.replace("weather", "wether"),
            TREE.replace('3', "\"three\""),
            WEATHER.replace("</tool_call>", ""),
        ] {
            assert!(!is_answer(&free, &text), "{text}");
        }
    }

    #[test]
    fn required_calls_have_no_text_and_one_call_is_one() {
        let (required, one) = (constraint(Calls::Required), constraint(Calls::One));
        for (text, by_required, by_one) in [
            (WEATHER.to_owned(), true, true),
            (format!("{WEATHER}\n{TREE}"), true, false),
            (format!("Text. {WEATHER}"), false, false),
            ("Text.".to_owned(), false, false),
            (String::new(), false, false),
        ] {
            assert_eq!(
                (is_answer(&required, &text), is_answer(&one, &text)),
                (by_required, by_one),
                "{text}"
            );
        }
    }

    #[test]
    fn a_tool_that_cannot_be_kept_to_is_named() {
        let tools = [Tool { name: "odd".into(), parameters: json!({"not": {}}) }];
        let error = tool_calls(&tools, &hermes(), Calls::Free).unwrap_err();
        assert!(error.starts_with("`odd`: ") && error.contains("`not`"), "{error}");
        assert!(tool_calls(&[], &hermes(), Calls::One).is_err());
    }
}
