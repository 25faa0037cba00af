//! Whether a version has passed a suite.

use super::compare::Comparison;
use super::report::{Outcome, Report};
use crate::config::SuiteTerms;

impl SuiteTerms {
    /// Why a version has not passed, if it has not. `baseline` is the name of what it was compared with.
    pub fn judge(&self, report: &Report, baseline: Option<(&str, &Comparison)>) -> Result<(), String> {
        let tally = report.tally();
        if tally.errors > 0 {
            let first = report.cases.iter().find_map(|case| match &case.outcome {
                Outcome::Error { why } => Some(format!("{}: {why}", case.title)),
                _ => None,
            });
            let first = first.unwrap_or_default();
            return Err(format!(
                "{} of {} cases could not be asked or judged; the first: {first}",
                tally.errors, tally.cases
            ));
        }
        if let Some((name, comparison)) = baseline {
            if comparison.unknown > 0 {
                return Err(format!("{} cases could not be asked of {name}", comparison.unknown));
            }
            let most = self.max_regressions.unwrap_or(0);
            if comparison.broken > most {
                let (broken, cases) = (comparison.broken, tally.cases);
                return Err(format!(
                    "{broken} of {cases} cases are broken that {name} passes; {most} may be"
                ));
            }
        }
        let least = self.min_pass.or(baseline.is_none().then_some(100.0));
        match least.filter(|least| tally.percent() < *least) {
            Some(least) => Err(format!(
                "{} of {} cases pass, {:.1} %; at least {least} % must",
                tally.passed,
                tally.cases,
                tally.percent()
            )),
            None => Ok(()),
        }
    }
}
