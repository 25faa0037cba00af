//! The grammar of calls of tools: names are those of tools that are offered, arguments keep to their schemas, and all
//! between is written as the model's format has it.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::grammar::{WHITESPACE, with_options};
use super::schema;
use crate::dialect::{CallShape, Forced, ToolFormat};
use crate::quality::Tool;

/// Which calls an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Calls<'a> {
    /// Text, and calls or not.
    Free,
    /// The one whose beginning the prompt ends with, and, where it may have several, others behind it.
    Begun(Forced<'a>, Several),
}

/// Whether there may be several calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Several {
    No,
    Yes,
}

/// The tools of a request, and which of them are strict.
pub(in crate::gateway) struct Offered<'a> {
    pub(in crate::gateway) tools: &'a [Tool],
    /// Names of tools whose arguments must keep to their schema.
    pub(in crate::gateway) strict: &'a [String],
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
    let CallShape { before_name, before_arguments, joint, end } = format.shape();
    let written = |text: &str| Written { format, special }.of(text);
    let mut lark = String::new();
    let more = |several: Several| match several {
        Several::No => String::new(),
        Several::Yes => format!("({} call)*", written(joint)),
    };
    match calls {
        Calls::Begun(forced, several) => {
            let begun = match forced {
                Forced::Any => "call".to_owned(),
                // a space that a tokenizer joins to what follows is not in the prompt
                Forced::Named(name) => {
                    let left = &before_arguments[before_arguments.trim_end().len()..];
                    format!("{} {}", written(left), offered.rule_of(name))
                }
            };
            let _ = writeln!(lark, "start: {begun} {} {}", more(several), written(end));
        }
        Calls::Free => {
            let calls = format!("call {} {}", more(Several::Yes), written(end));
            lark.push_str(&free(format, before_name, &calls, special)?);
        }
    }
    let one = |i: usize| {
        let name = &offered.tools[i].name;
        format!("{} arguments_{i}", written(&format!("{name}{before_arguments}")))
    };
    let all: Vec<String> = (0..offered.tools.len()).map(one).collect();
    let _ = writeln!(lark, "call: {}", all.join(" | "));
    for (i, tool) in offered.tools.iter().enumerate() {
        let _ = writeln!(lark, "arguments_{i}: %json {}", offered.arguments(tool)?);
    }
    Ok(lark)
}

/// Text that may turn into calls, which `before_name` begins.
fn free(
    format: ToolFormat,
    before_name: &str,
    calls: &str,
    special: &dyn Fn(&str) -> Option<u32>,
) -> Result<String, String> {
    let written = |text: &str| Written { format, special }.of(text);
    let Some(mark) = format.call_mark() else {
        // nothing but a brace tells a call from text: text begins with something else
        return Ok(format!("start: TEXT | {} {calls}\nTEXT: /[^\\s{{](?s:.*)/\n", written(before_name)));
    };
    let rest = before_name.strip_prefix(mark).ok_or("a call does not begin with its mark")?;
    if special(mark).is_some() {
        let opening = written(before_name);
        return Ok(format!("start: TEXT? ({opening} {calls} TEXT?)*\nTEXT: /(?s:.+)/\n"));
    }
    // a lazy lexeme ends where its suffix first does, so that plain text has no beginning of a call in it
    let pattern = regex::escape(mark).replace('/', "\\/");
    let begins = format!("before {} {calls}", written(rest));
    Ok(format!("start: ({begins})* TEXT?\nTEXT: /(?s:.+)/\nbefore[lazy]: /(?s:.*){pattern}/\n"))
}

/// Text of a format, in which some marks are tokens of their own.
struct Written<'a> {
    format: ToolFormat,
    special: &'a dyn Fn(&str) -> Option<u32>,
}

impl Written<'_> {
    /// Such text in Lark's syntax; nothing for none.
    fn of(&self, text: &str) -> String {
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
}

impl Offered<'_> {
    /// The rule of a tool's arguments.
    fn rule_of(&self, name: &str) -> String {
        let i = self.tools.iter().position(|tool| tool.name == name).unwrap_or_default();
        format!("arguments_{i}")
    }

    fn arguments(&self, tool: &Tool) -> Result<Json, String> {
        let Tool { name, parameters } = tool;
        let mut parameters = parameters.clone();
        // arguments are an object, whether or not the schema says so
        let says_what = ["type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"];
        if let Json::Object(members) = &mut parameters
            && !says_what.iter().any(|keyword| members.contains_key(*keyword))
        {
            members.insert("type".to_owned(), json!("object"));
        }
        match schema::check(&parameters) {
            Ok(()) => Ok(with_options(parameters, WHITESPACE)),
            Err(why) if self.strict.contains(name) => Err(format!("`{name}`: {why}")),
            Err(_) => Ok(with_options(json!({"type": "object"}), WHITESPACE)),
        }
    }
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
