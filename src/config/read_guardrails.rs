//! `policies.<name>.guardrails`: from the tree to [`Guardrails`].

use super::guardrails::{Guardrails, Ratio, RelativeChange, TimeLimit, Timing};
use super::policy::Chance;
use super::raw::{Node, Value};
use super::reader::{Problem, Reader, Section};
use super::values::{chance, number};

const GUARDRAILS: &[&str] =
    &["alpha", "latency", "time_to_first_token", "time_per_output_token", "output_length"];

/// The percentile that is compared where none is named.
const USUAL: f64 = 0.95;

pub(super) fn read_guardrails(r: &mut Reader, node: &Node, path: &str) -> Guardrails {
    let s = r.section(node, path.to_owned(), GUARDRAILS);
    let mut guardrails = Guardrails::none();
    if let Some(alpha) = r.field(&s, "alpha", chance) {
        guardrails.alpha = alpha;
    }
    for timing in Timing::ALL {
        if let Some(node) = s.get(timing.as_str())
            && let Some(limit) = time_limit(r, node, &s.path_of(timing.as_str()))
        {
            guardrails.times.insert(timing, limit);
        }
    }
    if let Some(node) = s.get("output_length") {
        let s = r.section(node, s.path_of("output_length"), &["max_change"]);
        let fix = "say how much the mean may differ: {max_change: 50%}";
        guardrails.output_length = limit(r, node, &s, "max_change", fix, change);
    }
    guardrails
}

fn time_limit(r: &mut Reader, node: &Node, path: &str) -> Option<TimeLimit> {
    let s = r.section(node, path.to_owned(), &["quantile", "max_ratio"]);
    let quantile = match s.get("quantile").map(|node| &node.value) {
        None | Some(Value::Null) => Chance::new(USUAL),
        Some(_) => r.field(&s, "quantile", quantile),
    };
    let fix = "say how much slower than stable the canary may be: {max_ratio: 1.5}";
    let max_ratio = limit(r, node, &s, "max_ratio", fix, ratio);
    Some(TimeLimit { quantile: quantile?, max_ratio: max_ratio? })
}

/// The limit of a guardrail; what is no mapping at all was reported already.
fn limit<T>(
    r: &mut Reader,
    node: &Node,
    s: &Section<'_>,
    key: &str,
    fix: &str,
    read: impl FnOnce(&Value) -> Result<T, Problem>,
) -> Option<T> {
    if !matches!(node.value, Value::Map(_) | Value::Null) {
        return None;
    }
    r.needed(s, key, fix, read)
}

fn quantile(value: &Value) -> Result<Chance, Problem> {
    let within = |quantile: &Chance| (0.05..=0.999).contains(&quantile.get());
    number(value).and_then(Chance::new).filter(within).ok_or_else(|| {
        let found = format!("{} is not a quantile that can be compared", value.describe());
        Problem::new(found, "give a share from 0.05 to 0.999, such as 0.95")
    })
}

fn ratio(value: &Value) -> Result<Ratio, Problem> {
    number(value).and_then(Ratio::new).ok_or_else(|| {
        let found = format!("{} is not a limit", value.describe());
        Problem::new(found, "give how many times as long the canary may take, above 1 and up to 100: 1.5")
    })
}

/// `30` or `"30%"`.
fn change(value: &Value) -> Result<RelativeChange, Problem> {
    let percent = match value {
        Value::Text(text) => text.strip_suffix('%').and_then(|text| text.trim().parse().ok()),
        other => number(other),
    };
    percent.and_then(RelativeChange::percent).ok_or_else(|| {
        let found = format!("{} is not a change", value.describe());
        Problem::new(found, "give a percentage above 0 and up to 10000, such as 30%")
    })
}
