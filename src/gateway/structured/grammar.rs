//! What a client may ask of the shape of an answer, and the grammar that it becomes.

use serde_json::{Value as Json, json};

use super::schema;
use crate::engine::Grammar;

/// The most bytes of a schema, a regular expression, a grammar, or of all choices together.
const MAX_BYTES: usize = 64 * 1024;

/// Between the tokens of JSON, whitespace may be anything but endless: a model that is not sure what to say says that.
pub(super) const WHITESPACE: &str = r"[ \t\n\r]{1,64}";

/// Characters that JSON's strings may escape. `\u` is not among them: a key could be spelled in two ways, and so be
/// another one to the grammar than to its reader.
const ESCAPES: &str = "nrbtf\\\"";

/// How deep brackets may be in each other. Regular expressions have a limit of their own.
const MAX_NESTING: usize = 128;

/// The shape of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Any JSON object.
    JsonObject,
    /// JSON that validates against a schema.
    JsonSchema(Json),
    /// A text that matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of a grammar in Lark's syntax.
    Lark(String),
    /// Calls of tools, by a grammar of our own in Lark's syntax.
    Calls(String),
}

/// A shape that was asked for, and by which parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    shape: Shape,
    /// What may stand between JSON's tokens.
    whitespace: Option<String>,
    param: String,
    /// Equal for equal shapes.
    key: String,
}

impl Structure {
    /// What `param` asks for. An error says what is wrong with it.
    pub fn new(param: impl Into<String>, shape: Shape, whitespace: Option<String>) -> Result<Self, String> {
        let key = key(&shape, whitespace.as_deref());
        if key.len() > MAX_BYTES {
            return Err(format!("it has {} bytes; at most {MAX_BYTES} are taken", key.len()));
        }
        Ok(Self { shape, whitespace, param: param.into(), key })
    }

    /// The parameter that asked for it.
    /// What was asked for, as a request says it.
    pub(in crate::gateway) fn written(&self) -> (String, Json) {
        let of_schema = |schema: &Json| json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}});
        match &self.shape {
            Shape::JsonObject => ("response_format".to_owned(), json!({"type": "json_object"})),
            Shape::JsonSchema(schema) => ("response_format".to_owned(), of_schema(schema)),
            Shape::Regex(regex) => ("guided_regex".to_owned(), json!(regex)),
            Shape::Choice(texts) => ("guided_choice".to_owned(), json!(texts)),
            Shape::Lark(grammar) | Shape::Calls(grammar) => ("guided_grammar".to_owned(), json!(grammar)),
        }
    }

    pub(super) fn param(&self) -> &str {
        &self.param
    }

    /// Equal for equal shapes.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// As a grammar; an error says what is not understood, and where.
    pub fn grammar(&self) -> Result<Grammar, String> {
        match &self.shape {
            Shape::JsonObject => Ok(self.json(json!({"type": "object"}))),
            Shape::JsonSchema(schema) => {
                schema::check(schema)?;
                Ok(self.json(schema.clone()))
            }
            Shape::Regex(pattern) => Ok(Grammar::from_regex(unanchored(pattern))),
            Shape::Choice(texts) => choice(texts),
            Shape::Lark(text) => lark(text),
            Shape::Calls(text) => Ok(Grammar::from_lark(text.clone())),
        }
    }

    fn json(&self, schema: Json) -> Grammar {
        let whitespace = self.whitespace.as_deref().unwrap_or(WHITESPACE);
        Grammar::from_json_schema(with_options(schema, whitespace))
    }
}

/// A schema with the library's own settings in it.
pub(super) fn with_options(schema: Json, whitespace: &str) -> Json {
    let mut schema = match schema {
        Json::Bool(true) => json!({}),
        Json::Bool(false) => json!({"enum": []}),
        schema => schema,
    };
    schema["x-guidance"] = json!({"whitespace_pattern": whitespace, "json_allowed_escapes": ESCAPES});
    schema
}

fn key(shape: &Shape, whitespace: Option<&str>) -> String {
    let (kind, text) = match shape {
        Shape::JsonObject => ("object", String::new()),
        Shape::JsonSchema(schema) => ("schema", schema.to_string()),
        Shape::Regex(pattern) => ("regex", pattern.clone()),
        Shape::Choice(texts) => ("choice", json!(texts).to_string()),
        Shape::Lark(text) => ("lark", text.clone()),
        Shape::Calls(text) => ("calls", text.clone()),
    };
    format!("{kind} {} {text}", json!(whitespace))
}

/// Anchors at both ends say what holds anyway.
fn unanchored(pattern: &str) -> &str {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    let Some(body) = pattern.strip_suffix('$') else { return pattern };
    let escapes = body.bytes().rev().take_while(|byte| *byte == b'\\').count();
    if escapes % 2 == 0 { body } else { pattern }
}

fn choice(texts: &[String]) -> Result<Grammar, String> {
    if texts.is_empty() {
        return Err("there is nothing to choose from: give at least one text".into());
    }
    if let Some(i) = texts.iter().position(String::is_empty) {
        return Err(format!("choice {i} is empty; give it a text or leave it out"));
    }
    let texts: Vec<String> = texts.iter().map(|text| regex::escape(text)).collect();
    Ok(Grammar::from_regex(&texts.join("|")))
}

fn lark(text: &str) -> Result<Grammar, String> {
    if text.contains("::=") {
        return Err("it is in EBNF or GBNF (`::=`); give it in Lark's syntax".into());
    }
    let mut depth = 0_usize;
    for c in text.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_NESTING {
            return Err(format!("brackets in it are more than {MAX_NESTING} deep in each other"));
        }
    }
    Ok(Grammar::from_lark(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_at_the_ends_are_dropped_and_escaped_ones_stay() {
        for (pattern, body) in
            [("^a$", "a"), ("a", "a"), (r"a\$", r"a\$"), (r"a\\$", r"a\\"), ("$", ""), ("^", "")]
        {
            assert_eq!(unanchored(pattern), body);
        }
    }

    #[test]
    fn what_is_too_large_empty_or_of_another_syntax_is_refused_with_the_reason() {
        let new = |shape| Structure::new("guided_choice", shape, None);
        let error = new(Shape::Regex("a".repeat(MAX_BYTES))).unwrap_err();
        assert!(error.contains("at most 65536"), "{error}");
        let error = |shape| new(shape).unwrap().grammar().unwrap_err();
        assert!(error(Shape::Choice(Vec::new())).contains("at least one"));
        assert!(error(Shape::Choice(vec!["a".into(), String::new()])).contains("choice 1 is empty"));
        assert!(error(Shape::Lark("root ::= \"a\"".into())).contains("Lark"));
        assert!(error(Shape::Lark(format!("start: {}", "(".repeat(200)))).contains("128 deep"));
        assert!(error(Shape::JsonSchema(json!({"not": {}}))).contains("`not`"));
    }

    #[test]
    fn equal_shapes_have_equal_keys_and_others_others() {
        let key = |shape, whitespace: Option<&str>| {
            Structure::new("x", shape, whitespace.map(str::to_owned)).unwrap().key().to_owned()
        };
        let schema = || Shape::JsonSchema(json!({"type": "integer"}));
        assert_eq!(key(schema(), None), key(schema(), None));
        assert_ne!(key(schema(), None), key(schema(), Some(" ?")));
        assert_ne!(key(Shape::Regex("a".into()), None), key(Shape::Lark("a".into()), None));
    }
}
