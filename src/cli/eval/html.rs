//! The report as one page without anything to fetch.

use minijinja::{AutoEscape, Environment, Value as Template};
use serde::Deserialize;
use serde_json::json;

use super::{Evaluation, Row, told};
use crate::quality::suite::Tally;

/// The part of an answer that shows at once, in characters.
const EXCERPT: usize = 100;
const PAGE: &str = include_str!("page.html");

pub(super) fn page(evaluation: &Evaluation<'_>) -> Result<String, String> {
    let Evaluation { suite, report, baseline } = evaluation;
    let mut env = Environment::new();
    env.set_auto_escape_callback(|_| AutoEscape::Html);
    let cases: Vec<_> = report
        .cases
        .iter()
        .enumerate()
        .map(|(i, case)| {
            let change = baseline.as_ref().map(|(_, _, comparison)| comparison.changes[i]);
            let excerpt: String = case.output.chars().take(EXCERPT).collect();
            // the two have the same cases in the same order
            let before = baseline.as_ref().and_then(|(_, before, _)| before.cases.get(i));
            let before = before.map(|before| &before.output);
            json!({"case": case, "change": change, "before": before, "excerpt": excerpt})
        })
        .collect();
    let share = |tally: Tally| format!("{:.1} %", tally.percent());
    let row = |Row { name, tally, before }: Row| json!({"name": name, "tally": tally, "share": share(tally), "before": before.map(share)});
    let rows: Vec<_> = evaluation.rows().into_iter().map(row).collect();
    let context = json!({
        "title": suite.description.clone().unwrap_or_else(|| suite.file.display().to_string()),
        "file": suite.file,
        "model": report.cases.first().map(|case| &case.model),
        "rows": rows,
        "cases": cases,
        "baseline": baseline.as_ref().map(|(model, _, comparison)| json!({
            "model": model, "fixed": comparison.fixed, "broken": comparison.broken, "same": comparison.same,
            "p": told(comparison.p_value),
        })),
        "left_out": report.left_out,
    });
    let context = Template::deserialize(context).map_err(|e| e.to_string())?;
    env.render_str(PAGE, context).map_err(|e| e.to_string())
}
