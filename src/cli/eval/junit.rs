//! The report as `JUnit` XML, which CI systems show case by case.

use std::fmt::Write as _;

use super::Evaluation;
use crate::quality::suite::{CaseResult, Change, Outcome};

pub(super) fn document(evaluation: &Evaluation<'_>) -> String {
    let mut out = String::new();
    // writing to a String cannot fail
    let _ = write_document(&mut out, evaluation);
    out
}

fn write_document(out: &mut String, evaluation: &Evaluation<'_>) -> std::fmt::Result {
    let Evaluation { suite, report, baseline } = evaluation;
    let tally = report.tally();
    let seconds: f64 = report.cases.iter().map(|case| case.latency.as_secs_f64()).sum();
    let name = suite.description.clone().unwrap_or_else(|| suite.file.display().to_string());
    writeln!(out, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
    for element in ["<testsuites", "  <testsuite"] {
        writeln!(
            out,
            r#"{element} name="{}" tests="{}" failures="{}" errors="{}" time="{seconds:.3}">"#,
            escaped(&name),
            tally.cases,
            tally.failed,
            tally.errors
        )?;
    }
    for (i, case) in report.cases.iter().enumerate() {
        let change = baseline.as_ref().map(|(_, _, comparison)| comparison.changes[i]);
        write_case(out, suite.file.to_string_lossy().as_ref(), case, change)?;
    }
    writeln!(out, "  </testsuite>\n</testsuites>")
}

fn write_case(out: &mut String, file: &str, case: &CaseResult, change: Option<Change>) -> std::fmt::Result {
    write!(
        out,
        r#"    <testcase name="{}" classname="{}" file="{}" line="{}" time="{:.3}""#,
        escaped(&case.title),
        escaped(&format!("{}.{}", case.model, case.tags.first().map_or("suite", String::as_str))),
        escaped(file),
        case.line,
        case.latency.as_secs_f64()
    )?;
    let (element, message) = match &case.outcome {
        Outcome::Passed => return writeln!(out, "/>"),
        Outcome::Failed => {
            ("failure", if change == Some(Change::Broken) { "broken" } else { "failed" }.to_owned())
        }
        Outcome::Error { why } => ("error", why.clone()),
    };
    writeln!(out, ">")?;
    let failed = case.assertions.iter().filter(|assertion| !assertion.passed && assertion.weight > 0.0);
    let reasons = failed.map(|assertion| format!("{}: {}\n", assertion.assertion, assertion.reason));
    let text = reasons.collect::<String>() + "answer: " + &case.output;
    writeln!(
        out,
        r#"      <{element} message="{}" type="{element}">{}</{element}>"#,
        escaped(&message),
        escaped(&text)
    )?;
    writeln!(out, "    </testcase>")
}

/// A text as XML has it, in an attribute or between elements; characters that XML cannot have are left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn no_answer_breaks_the_document() {
        assert_eq!(escaped("a<b>&\"c\"\n\u{0}\u{7}ü"), "a&lt;b&gt;&amp;&quot;c&quot;&#10;ü");
    }
}
