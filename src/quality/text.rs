//! `regex`, `contains`, `equals`, `starts-with` with their relatives, and their opposites.

use regex::{Regex, RegexBuilder};

use super::checks::{Check, Finding};
use super::compile::Fault;
use super::response::Subject;
use super::verdict::{Judgement, shown};
use crate::config::{Case, EqualTo, Expect, Needed, TextRule};

/// The largest compiled pattern, in bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// A rule about the text, and whether it is to hold.
pub(super) struct Text {
    rule: Rule,
    expect: Expect,
}

enum Rule {
    Pattern(Regex),
    Contains { needles: Vec<String>, needed: Needed, case: Case },
    Equals(EqualTo),
    StartsWith(String),
}

impl Text {
    pub(super) fn new(rule: &TextRule, expect: Expect) -> Result<Self, Fault> {
        let rule = match rule {
            TextRule::Regex(pattern) => Rule::Pattern(compile(pattern)?),
            TextRule::Contains { needles, needed, case } => Rule::Contains {
                needles: needles.iter().map(|needle| folded(needle, *case)).collect(),
                needed: *needed,
                case: *case,
            },
            TextRule::Equals(wanted) => Rule::Equals(wanted.clone()),
            TextRule::StartsWith(start) => Rule::StartsWith(start.clone()),
        };
        Ok(Self { rule, expect })
    }
}

impl Check for Text {
    fn judge(&self, subject: &Subject<'_>) -> Finding {
        let (holds, reason) = self.rule.look(subject);
        Ok(Judgement::of(holds == (self.expect == Expect::Match), reason))
    }
}

impl Rule {
    /// Whether the rule holds of the text, and what was found.
    fn look(&self, subject: &Subject<'_>) -> (bool, String) {
        let text = subject.text();
        match self {
            Self::Pattern(pattern) => match pattern.find(text) {
                Some(found) => {
                    (true, format!("{} matches {}", shown(found.as_str()), shown(pattern.as_str())))
                }
                None => (false, format!("nothing matches {} in {}", shown(pattern.as_str()), shown(text))),
            },
            Self::Contains { needles, needed, case } => contains(text, needles, *needed, *case),
            Self::Equals(EqualTo::Text(wanted)) => (text == wanted, versus(text, wanted)),
            Self::Equals(EqualTo::Json(wanted)) => {
                (subject.json() == Ok(wanted), versus(text, &wanted.to_string()))
            }
            Self::StartsWith(start) => {
                let reason = format!("the answer starts {}; compared with {}", shown(text), shown(start));
                (text.starts_with(start.as_str()), reason)
            }
        }
    }
}

fn contains(text: &str, needles: &[String], needed: Needed, case: Case) -> (bool, String) {
    let folded = folded(text, case);
    let found = |needle: &&String| folded.contains(needle.as_str());
    match needed {
        Needed::Any => match needles.iter().find(found) {
            Some(needle) => (true, format!("contains {}", shown(needle))),
            None => (false, format!("none of {} occurs in {}", list(needles), shown(text))),
        },
        Needed::All => match needles.iter().find(|needle| !found(needle)) {
            None => (true, format!("contains {}", list(needles))),
            Some(needle) => (false, format!("{} does not occur in {}", shown(needle), shown(text))),
        },
    }
}

fn list(needles: &[String]) -> String {
    let shown: Vec<_> = needles.iter().take(3).map(|needle| shown(needle)).collect();
    let more = needles.len().saturating_sub(shown.len());
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", shown.join(", "))
}

fn versus(text: &str, wanted: &str) -> String {
    format!("the answer is {}; compared with {}", shown(text), shown(wanted))
}

fn folded(text: &str, case: Case) -> String {
    match case {
        Case::Sensitive => text.to_owned(),
        Case::Insensitive => text.to_lowercase(),
    }
}

fn compile(pattern: &str) -> Result<Regex, Fault> {
    RegexBuilder::new(pattern).size_limit(PATTERN_BYTES).build().map_err(|e| Fault {
        field: "value",
        found: match e {
            // Its own text draws the place over several lines; the last one says what is wrong.
            regex::Error::Syntax(drawn) => {
                let why = drawn.lines().last().unwrap_or_default();
                format!("{} is no regular expression: {}", shown(pattern), why.trim_start_matches("error: "))
            }
            regex::Error::CompiledTooBig(limit) => {
                format!("{} becomes larger than {limit} bytes", shown(pattern))
            }
            other => format!("{} is no regular expression: {other}", shown(pattern)),
        },
        fix: "write it in the syntax of Rust's regex crate, which has no look-around and no back-references"
            .to_owned(),
    })
}
