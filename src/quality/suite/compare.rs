//! Two versions on the same cases. What both pass or both fail says nothing about which is better; the others do, and
//! whether they could be chance is `McNemar`'s test (1947), in its exact form.

use serde::Serialize;

use super::report::{CaseResult, Outcome, Report};

/// How a case went for a version beside its baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It passes now.
    Fixed,
    /// It passed before.
    Broken,
    /// Both pass.
    BothPass,
    /// Both fail.
    BothFail,
    /// One of the two could not be asked or judged.
    Unknown,
}

/// A version beside its baseline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// One for each case of the report.
    pub changes: Vec<Change>,
    /// Cases that pass now.
    pub fixed: usize,
    /// Cases that passed before.
    pub broken: usize,
    /// Cases that went as before.
    pub same: usize,
    /// Cases of which one of the two tells nothing.
    pub unknown: usize,
    /// How likely so uneven a split of fixed and broken cases is, or a more uneven one, where both versions are equally good.
    pub p_value: f64,
}

/// Sets the cases of a version beside those of its baseline, which answered the same suite.
pub fn compare(version: &Report, baseline: &Report) -> Comparison {
    let same_case = |a: &CaseResult, b: &CaseResult| {
        (a.index, &a.prompt, &a.provider) == (b.index, &b.prompt, &b.provider)
    };
    let change = |(place, case): (usize, &CaseResult)| {
        let before = baseline.cases.get(place).filter(|before| same_case(before, case));
        match (&case.outcome, before.map(|before| &before.outcome)) {
            (Outcome::Passed, Some(Outcome::Passed)) => Change::BothPass,
            (Outcome::Passed, Some(Outcome::Failed)) => Change::Fixed,
            (Outcome::Failed, Some(Outcome::Passed)) => Change::Broken,
            (Outcome::Failed, Some(Outcome::Failed)) => Change::BothFail,
            _ => Change::Unknown,
        }
    };
    let changes: Vec<Change> = version.cases.iter().enumerate().map(change).collect();
    let count = |wanted: &[Change]| changes.iter().filter(|change| wanted.contains(change)).count();
    let (fixed, broken) = (count(&[Change::Fixed]), count(&[Change::Broken]));
    let (same, unknown) = (count(&[Change::BothPass, Change::BothFail]), count(&[Change::Unknown]));
    Comparison { fixed, broken, same, unknown, p_value: mcnemar(fixed, broken), changes }
}

/// The two-sided p-value of `McNemar`'s exact test: of `fixed + broken` fair coins, as many heads as the rarer of the two or
/// fewer, and the same for tails.
pub fn mcnemar(fixed: usize, broken: usize) -> f64 {
    let (n, rarer) = (fixed + broken, fixed.min(broken));
    // in logarithms, as 2^-n is soon no number
    let mut term = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for k in 0..=rarer {
        sum += term.exp();
        term += ((n - k) as f64).ln() - ((k + 1) as f64).ln();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::mcnemar;

    /// As `scipy.stats.binomtest(min(b, c), b + c).pvalue` has it.
    #[test]
    fn the_test_is_exact() {
        for (fixed, broken, p) in [
            (0, 0, 1.0),
            (1, 0, 1.0),
            (0, 6, 0.031_25),
            (3, 3, 1.0),
            (1, 9, 0.021_484_375),
            (2, 12, 0.012_939_453_125),
            (40, 60, 0.056_887_933_640_987),
        ] {
            for found in [mcnemar(fixed, broken), mcnemar(broken, fixed)] {
                assert!((found - p).abs() < 1e-9, "{fixed} {broken}: {found}, not {p}");
            }
        }
        assert!(mcnemar(2000, 2000) > 0.99 && mcnemar(0, 5000) < 1e-300);
    }
}
