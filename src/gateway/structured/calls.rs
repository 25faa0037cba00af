//! The grammar of calls of tools: names are those of tools that are offered, arguments keep to their schemas, and all
//! between is written as the model's format has it.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::grammar::{WHITESPACE, with_options};
use super::schema;
use crate::dialect::{CallShape, Forced, THINK_MARKS, ToolFormat};
use crate::gateway::command::MostCalls;
use crate::quality::Tool;

/// Which calls an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Calls<'a> {
    /// Text, and calls or not; a thought before both, where the answer may have one.
    Free(MostCalls, Option<Thought>),
    /// The one whose beginning the prompt ends with, and, where it may have several, others behind it.
    Begun(Forced<'a>, MostCalls),
}

/// The thought of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Thought {
    /// The prompt ends in it.
    Begun,
    /// The answer may begin with one.
    Perhaps,
}

/// The tools of a request, and which of them are strict.
pub(in crate::gateway) struct Offered<'a> {
    pub(in crate::gateway) tools: &'a [Tool],
    /// Names of tools whose arguments must keep to their schema.
    pub(in crate::gateway) strict: &'a [String],
    pub(in crate::gateway) others: Others,
}

/// What is done about tools that are not strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Others {
    /// Their arguments keep to their schemas, where these can be kept to.
    Kept,
    /// Their arguments are any object.
    AnyObject,
}

/// The grammar in Lark's syntax. `special` gives the token that a mark is, where it is one that no text is spelled with. An
/// error names the tool and what of its schema cannot be kept to; of tools that are not strict, arguments that cannot be
/// kept to are any object.
pub(in crate::gateway) fn calls(
    format: ToolFormat,
    offered: &Offered<'_>,
    calls: Calls<'_>,
    special: &dyn Fn(&str) -> Option<u32>,
) -> Result<String, String> {
    let CallShape { before_arguments, joint, end, .. } = format.shape();
    let marks = Marks { format, special };
    let more = |most: MostCalls| match most {
        MostCalls::One => String::new(),
        MostCalls::Any => format!("({} call)*", marks.written(joint)),
    };
    let mut lark = match calls {
        Calls::Begun(forced, most) => {
            let begun = match forced {
                Forced::Any => "call".to_owned(),
                // a space that a tokenizer joins to what follows is not in the prompt
                Forced::Named(name) => {
                    let left = &before_arguments[before_arguments.trim_end().len()..];
                    format!("{} {}", marks.written(left), offered.rule_of(name)?)
                }
            };
            format!("start: {begun} {} {}\n", more(most), marks.written(end))
        }
        Calls::Free(most, thought) => {
            let calls = format!("call {} {}", more(most), marks.written(end));
            marks.free(&calls, most, thought)
        }
    };
    let one = |i: usize| {
        let name = &offered.tools[i].name;
        format!("{} arguments_{i}", marks.written(&format!("{name}{before_arguments}")))
    };
    let all: Vec<String> = (0..offered.tools.len()).map(one).collect();
    let _ = writeln!(lark, "call: {}", all.join(" | "));
    for (i, tool) in offered.tools.iter().enumerate() {
        let _ = writeln!(lark, "arguments_{i}: %json {}", offered.arguments(tool)?);
    }
    Ok(lark)
}

/// A format whose marks may be tokens of their own.
struct Marks<'a> {
    format: ToolFormat,
    special: &'a dyn Fn(&str) -> Option<u32>,
}

impl Marks<'_> {
    /// A text of the format in Lark's syntax; nothing for none.
    fn written(&self, text: &str) -> String {
        let next = |text: &str| {
            let marks = self.format.marks().iter().filter_map(|mark| Some((*mark, (self.special)(mark)?)));
            marks.filter_map(|(mark, token)| Some((text.find(mark)?, mark, token))).min()
        };
        let (mut rest, mut parts) = (text, Vec::new());
        while let Some((at, mark, token)) = next(rest) {
            if at > 0 {
                parts.push(json!(&rest[..at]).to_string());
            }
            parts.push(format!("<[{token}]>"));
            rest = &rest[at + mark.len()..];
        }
        if !rest.is_empty() {
            parts.push(json!(rest).to_string());
        }
        parts.join(" ")
    }

    /// Text that may turn into `calls`, behind a thought.
    fn free(&self, calls: &str, most: MostCalls, thought: Option<Thought>) -> String {
        let before_name = self.format.shape().before_name;
        let (thought, mut rules) = self.thought(thought);
        let times = match most {
            MostCalls::One => "?",
            MostCalls::Any => "*",
        };
        let Some(mark) = self.format.call_mark() else {
            // nothing but a brace tells a call from text, so text begins with something else; nor with a thought, behind
            // which a call could be
            let brackets = if thought.is_empty() { "{" } else { "{<" };
            let _ = writeln!(rules, "start: {thought} (TEXT? | {} {calls})", self.written(before_name));
            let _ = writeln!(rules, "TEXT: /\\s*[^\\s{brackets}](?s:.*)/");
            return rules;
        };
        rules.push_str("TEXT: /(?s:.+)/\n");
        if (self.special)(mark).is_some() {
            let opening = self.written(before_name);
            let _ = writeln!(rules, "start: {thought} TEXT? ({opening} {calls} TEXT?){times}");
            return rules;
        }
        // a lazy lexeme ends where its suffix first does, so that plain text has no beginning of a call in it
        let rest = self.written(&before_name[mark.len()..]);
        let _ = writeln!(rules, "start: {thought} (before {rest} {calls}){times} TEXT?");
        let _ = writeln!(rules, "before[lazy]: /(?s:.*){}/", pattern(mark));
        rules
    }

    /// How a thought stands in the start rule, and its own rules.
    fn thought(&self, thought: Option<Thought>) -> (&'static str, String) {
        let [open, close] = THINK_MARKS;
        let Some(thought) = thought else { return ("", String::new()) };
        let (inside, mut rules) = match (self.special)(close) {
            Some(token) => (format!("THOUGHT? <[{token}]>"), "THOUGHT: /(?s:.+)/\n".to_owned()),
            None => ("inside".to_owned(), format!("inside[lazy]: /(?s:.*){}/\n", pattern(close))),
        };
        let (place, begins) = match (thought, (self.special)(open)) {
            (Thought::Begun, _) => ("thought", String::new()),
            (Thought::Perhaps, Some(token)) => ("thought?", format!("<[{token}]>")),
            // text up to a mark of its own is one lexeme, whatever it begins with
            (Thought::Perhaps, None) if (self.special)(close).is_some() => ("thought?", String::new()),
            (Thought::Perhaps, None) => ("thought?", json!(open).to_string()),
        };
        let _ = writeln!(rules, "thought: {begins} {inside}");
        (place, rules)
    }
}

/// A text as a pattern between slashes.
fn pattern(text: &str) -> String {
    regex::escape(text).replace('/', "\\/")
}

impl Offered<'_> {
    /// The rule of a tool's arguments.
    fn rule_of(&self, name: &str) -> Result<String, String> {
        let i = self.tools.iter().position(|tool| tool.name == name);
        i.map(|i| format!("arguments_{i}")).ok_or_else(|| format!("`{name}` is no tool"))
    }

    fn arguments(&self, tool: &Tool) -> Result<Json, String> {
        let Tool { name, parameters } = tool;
        let any_object = || with_options(json!({"type": "object"}), WHITESPACE);
        let is_strict = self.strict.contains(name);
        if !is_strict && self.others == Others::AnyObject {
            return Ok(any_object());
        }
        match of_an_object(parameters).and_then(|schema| schema::check(&schema).map(|()| schema)) {
            Ok(schema) => Ok(with_options(schema, WHITESPACE)),
            Err(why) if is_strict => Err(format!("`{name}`: {why}")),
            Err(_) => Ok(any_object()),
        }
    }
}

/// The schema of arguments, which are an object, whether or not it says so.
fn of_an_object(parameters: &Json) -> Result<Json, String> {
    let mut schema = parameters.clone();
    let Json::Object(members) = &mut schema else { return Ok(schema) };
    match members.get("type") {
        None => drop(members.insert("type".to_owned(), json!("object"))),
        Some(kind) if kind == "object" => {}
        Some(kind) => return Err(format!("`type` is {kind}, and arguments are an object: write \"object\"")),
    }
    Ok(schema)
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
