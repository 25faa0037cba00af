//! The report for a terminal: what failed and why, then the sums.

use std::fmt::Write as _;

use super::{Evaluation, Row, told};
use crate::cli::table::Table;
use crate::quality::suite::{CaseResult, Change, Outcome};

/// Failed cases that are told one by one.
const TOLD: usize = 20;
/// The longest excerpt of an answer, in characters.
const EXCERPT: usize = 160;

pub(super) fn report(evaluation: &Evaluation<'_>) -> String {
    let mut out = String::new();
    // writing to a String cannot fail
    let _ = write_report(&mut out, evaluation);
    out
}

fn write_report(out: &mut String, evaluation: &Evaluation<'_>) -> std::fmt::Result {
    let Evaluation { report, baseline, .. } = evaluation;
    let failed: Vec<&CaseResult> =
        report.cases.iter().filter(|case| case.outcome != Outcome::Passed).collect();
    for case in failed.iter().take(TOLD) {
        write_case(out, case, evaluation)?;
    }
    if failed.len() > TOLD {
        writeln!(out, "... and {} more, which --json and --html tell\n", failed.len() - TOLD)?;
    }
    let mut header = vec!["", "cases", "passed", "failed", "errors", "share"];
    header.extend(baseline.as_ref().map(|(model, ..)| *model));
    let mut table = Table::new(&header);
    for Row { name, tally, before } in evaluation.rows() {
        let counts = [tally.cases, tally.passed, tally.failed, tally.errors].map(|count| count.to_string());
        let shares =
            [Some(tally), before].into_iter().flatten().map(|tally| format!("{:.1} %", tally.percent()));
        table.row([name].into_iter().chain(counts).chain(shares));
    }
    write!(out, "{table}")?;
    for (metric, score) in report.by_metric() {
        writeln!(out, "{metric}: {score:.3} at the mean")?;
    }
    if report.left_out > 0 {
        writeln!(out, "{} assertions were left out, as they are not computed here", report.left_out)?;
    }
    if let Some((model, _, comparison)) = baseline {
        writeln!(
            out,
            "beside {model}: {} fixed, {} broken, {} as before ({} by McNemar's exact test)",
            comparison.fixed,
            comparison.broken,
            comparison.same,
            told(comparison.p_value)
        )?;
    }
    Ok(())
}

fn write_case(out: &mut String, case: &CaseResult, evaluation: &Evaluation<'_>) -> std::fmt::Result {
    let place = evaluation.report.cases.iter().position(|other| std::ptr::eq(other, case));
    let change = place.zip(evaluation.baseline.as_ref()).map(|(i, (_, _, comparison))| comparison.changes[i]);
    let mark = match (&case.outcome, change) {
        (Outcome::Error { .. }, _) => "error",
        (_, Some(Change::Broken)) => "broken",
        _ => "failed",
    };
    writeln!(out, "{mark}: {} (line {})", case.title, case.line)?;
    if let Outcome::Error { why } = &case.outcome {
        writeln!(out, "  {why}")?;
    }
    for assertion in case.assertions.iter().filter(|assertion| !assertion.passed && assertion.weight > 0.0) {
        writeln!(out, "  {}: {}", assertion.assertion, assertion.reason)?;
    }
    if !case.output.is_empty() {
        let excerpt: String = case.output.chars().take(EXCERPT).collect();
        let rest = if case.output.chars().count() > EXCERPT { "..." } else { "" };
        writeln!(out, "  answer: {excerpt:?}{rest}")?;
    }
    writeln!(out)
}
