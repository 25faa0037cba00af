//! Single values of the file: what each may be, and what would do instead.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::policy::Chance;
use super::raw::Value;
use super::reader::{Problem, count, text};
use super::units;
use super::valid::{KvTokens, ReasoningParser, ToolParser};
use crate::ids::{Digest, Weight};

pub(super) fn address(value: &Value) -> Result<SocketAddr, Problem> {
    let text = text(value)?;
    text.parse().map_err(|_| {
        Problem::new(format!("{text:?} is not an address"), "write ip:port, such as 127.0.0.1:8080")
    })
}

pub(super) fn folder(value: &Value) -> Result<PathBuf, Problem> {
    match text(value)? {
        "" => Err(Problem::new("an empty path", "name a path")),
        path => Ok(path.into()),
    }
}

pub(super) fn size(value: &Value) -> Result<usize, Problem> {
    let wrong = || {
        Problem::new(
            format!("{} is not a size", value.describe()),
            "write a number and B, KiB, MiB or GiB: 2MiB",
        )
    };
    let Value::Text(text) = value else { return Err(wrong()) };
    units::size(text).and_then(|b| usize::try_from(b).ok()).filter(|b| *b > 0).ok_or_else(wrong)
}

pub(super) fn duration(value: &Value) -> Result<Duration, Problem> {
    let wrong = || {
        Problem::new(
            format!("{} is not a duration", value.describe()),
            "write a number and ms, s, m or h: 30s",
        )
    };
    let Value::Text(text) = value else { return Err(wrong()) };
    units::duration(text).filter(|d| !d.is_zero()).ok_or_else(wrong)
}

pub(super) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(i) => Some(*i as f64),
        Value::Float(x) => Some(*x),
        _ => None,
    }
}

/// `5`, `2.5` or `"5%"`.
pub(super) fn percentage(value: &Value) -> Result<Weight, Problem> {
    let percent = match value {
        Value::Text(t) => t.strip_suffix('%').and_then(|t| t.trim().parse().ok()),
        other => number(other),
    };
    percent.and_then(|p| Weight::from_percent(p).ok()).ok_or_else(|| {
        Problem::new(
            format!("{} is not a weight", value.describe()),
            "give a percentage from 0 to 100 with at most two decimals",
        )
    })
}

/// Whether it may be a header's name: a token of RFC 9110.
pub(super) fn is_token(text: &str) -> bool {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.chars().all(token)
}

pub(super) fn header_name(value: &Value) -> Result<String, Problem> {
    let text = text(value)?;
    if !is_token(text) {
        return Err(Problem::new(format!("{text:?} is not a header name"), "write one such as x-user-id"));
    }
    Ok(text.to_ascii_lowercase())
}

pub(super) fn word<T: Copy>(value: &Value, words: &[(&str, T)]) -> Result<T, Problem> {
    let found = match value {
        Value::Text(t) => words.iter().find(|(w, _)| w == t),
        _ => None,
    };
    found.map(|(_, t)| *t).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
        Problem::new(format!("found {}", value.describe()), format!("write {}", known.join(" or ")))
    })
}

/// How a version writes calls of tools.
pub(super) fn tool_parser(value: &Value) -> Result<ToolParser, Problem> {
    let words = [
        ("hermes", ToolParser::Hermes),
        ("llama3_json", ToolParser::Llama3Json),
        ("mistral", ToolParser::Mistral),
        ("none", ToolParser::None),
    ];
    word(value, &words)
}

/// How a version writes what it thinks. Two families do it alike.
pub(super) fn reasoning_parser(value: &Value) -> Result<ReasoningParser, Problem> {
    let words = [
        ("deepseek_r1", ReasoningParser::ThinkTags),
        ("qwen3", ReasoningParser::ThinkTags),
        ("none", ReasoningParser::None),
    ];
    word(value, &words)
}

/// A word of a type that says what would do.
pub(super) fn parsed<T: FromStr<Err = &'static str>>(value: &Value) -> Result<T, Problem> {
    let text = match value {
        Value::Text(text) => text.as_str(),
        _ => "",
    };
    text.parse().map_err(|fix: &str| Problem::new(format!("found {}", value.describe()), fix))
}

/// A number of tokens, or `auto`.
pub(super) fn kv_tokens(value: &Value) -> Result<KvTokens, Problem> {
    match value {
        Value::Text(text) if text == "auto" => Ok(KvTokens::Auto),
        _ => match count(MOST_KV_TOKENS)(value) {
            Ok(tokens) => Ok(KvTokens::Tokens(tokens.get())),
            Err(problem) => Err(Problem::new(problem.found, format!("{}, or auto", problem.fix))),
        },
    }
}

/// The most tokens of key-value memory.
pub(super) const MOST_KV_TOKENS: usize = 1 << 30;

pub(super) fn chance(value: &Value) -> Result<Chance, Problem> {
    number(value).and_then(Chance::new).ok_or_else(|| {
        let found = format!("{} is not a probability", value.describe());
        Problem::new(found, "give a number above 0 and below 1, such as 0.01")
    })
}

/// `sha256:…`; `printed_by` is the command that knows it.
pub(super) fn digest(value: &Value, printed_by: &str) -> Result<Digest, Problem> {
    Digest::from_str(text(value)?).map_err(|_| {
        Problem::new(
            format!("{} is not a digest", value.describe()),
            format!("write `sha256:` and 64 lower-case hexadecimal digits; `{printed_by}` prints it"),
        )
    })
}
