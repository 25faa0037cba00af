//! What a check finds, and how it says so.

use serde_json::Value as Json;

/// Whether an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It does.
    Pass,
    /// It does not.
    Fail,
}

impl Verdict {
    /// The value of the `result` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pass => "passed",
            Self::Fail => "failed",
        }
    }
}

/// A verdict with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Whether the answer holds.
    pub verdict: Verdict,
    /// What was found and what was wanted, in one short line.
    pub reason: String,
}

/// The longest excerpt of an answer in a reason, in characters.
const EXCERPT: usize = 80;
/// The longest reason, in characters: a schema's own message may quote the whole answer.
const REASON: usize = 240;

impl Judgement {
    pub(super) fn pass(reason: impl AsRef<str>) -> Self {
        Self { verdict: Verdict::Pass, reason: cut(reason.as_ref(), REASON) }
    }

    pub(super) fn fail(reason: impl AsRef<str>) -> Self {
        Self { verdict: Verdict::Fail, reason: cut(reason.as_ref(), REASON) }
    }

    /// `pass` with what was found, or `fail` with that and what was wanted.
    pub(super) fn of(holds: bool, reason: impl AsRef<str>) -> Self {
        if holds { Self::pass(reason) } else { Self::fail(reason) }
    }
}

/// A text as a reason quotes it: on one line, cut at a character, never in one.
pub(super) fn shown(text: &str) -> String {
    format!("{:?}", cut(text, EXCERPT))
}

/// A JSON value as a reason quotes it: compact, on one line, cut.
pub(super) fn shown_json(value: &Json) -> String {
    cut(&value.to_string(), EXCERPT)
}

/// At most `most` characters; three dots stand for the rest.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_cut_between_characters() {
        assert_eq!(shown("short\n"), r#""short\n""#);
        assert_eq!(shown(&"ä".repeat(80)), format!("{:?}", "ä".repeat(80)));
        assert_eq!(shown(&"🙂".repeat(81)), format!("{:?}", format!("{}...", "🙂".repeat(80))));
        assert_eq!(Judgement::fail("é".repeat(1000)).reason.chars().count(), REASON + 3);
    }
}
