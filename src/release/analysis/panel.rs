//! All checks of a rollout together: one verdict.
//!
//! Each check has its pass rate under test, and so has `overall`: an answer passes if all its checks do. Half of alpha
//! is for `overall`, the checks share the other half (Bonferroni), so that the chance of any false abort stays under
//! alpha. One check alone is what is overall, and has all of alpha.

use super::pass_rate::{PassRate, Snapshot, Terms};
use super::verdict::{Finding, Verdict};
use super::{Arm, Outcome, UserCell};

/// The name of the test of all checks together.
pub(super) const OVERALL: &str = "overall";

/// The tests of one rollout.
#[derive(Debug, Clone)]
pub struct Panel {
    overall: PassRate,
    /// By the place of their names in `names`; none where one check is all there is.
    checks: Vec<PassRate>,
    names: Vec<String>,
}

/// What a panel says, with the finding of each test that counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// What to do.
    pub verdict: Verdict,
    /// Why, in one sentence for each test that says so.
    pub why: String,
}

impl Panel {
    /// Tests for checks of these names.
    pub fn new(names: Vec<String>, terms: Terms) -> Self {
        if names.len() < 2 {
            return Self { overall: PassRate::new(terms), checks: Vec::new(), names };
        }
        let half = terms.alpha / 2.0;
        let each = Terms { alpha: half / names.len() as f64, ..terms };
        Self {
            overall: PassRate::new(Terms { alpha: half, ..terms }),
            checks: names.iter().map(|_| PassRate::new(each)).collect(),
            names,
        }
    }

    /// What [`Panel::resume`] goes on from: each test under its name, as in [`Panel::findings`].
    pub fn snapshots(&self) -> Vec<(String, Snapshot)> {
        self.tests().map(|(name, test)| (name.to_owned(), test.snapshot())).collect()
    }

    /// Goes on with tests. `None` where these are not snapshots of a panel with the same checks: with others, what is
    /// overall is another question, and alpha is shared in another way.
    pub fn resume(names: Vec<String>, terms: Terms, mut snapshots: Vec<(String, Snapshot)>) -> Option<Self> {
        let mut panel = Self::new(names, terms);
        let wanted: Vec<String> = panel.tests().map(|(name, _)| name.to_owned()).collect();
        if snapshots.len() != wanted.len() {
            return None;
        }
        let tests = std::iter::once(&mut panel.overall).chain(&mut panel.checks);
        for (name, test) in wanted.iter().zip(tests) {
            let place = snapshots.iter().position(|(of, _)| of == name)?;
            *test = PassRate::resume(test.terms(), snapshots.swap_remove(place).1);
        }
        Some(panel)
    }

    /// Takes one answer in: what each check said of it, in the order of the names. A check that was not asked says
    /// nothing; the same must not be asked of either arm.
    ///
    /// # Panics
    /// If there is not one outcome for each name.
    pub fn observe(&mut self, arm: Arm, user: UserCell, outcomes: &[Option<Outcome>]) {
        assert_eq!(outcomes.len(), self.names.len(), "one outcome for each check");
        for (test, outcome) in self.checks.iter_mut().zip(outcomes) {
            if let Some(outcome) = outcome {
                test.observe(arm, user, *outcome);
            }
        }
        let all = if outcomes.contains(&Some(Outcome::Failed)) { Outcome::Failed } else { Outcome::Passed };
        self.overall.observe(arm, user, all);
    }

    /// Takes in what one check alone says, later than the others and not of every answer. It counts for its own test.
    pub fn observe_check(&mut self, arm: Arm, user: UserCell, name: &str, outcome: Outcome) {
        if let Some((test, _)) = self.checks.iter_mut().zip(&self.names).find(|(_, of)| *of == name) {
            test.observe(arm, user, outcome);
        }
    }

    /// Looks at what there is.
    pub fn look(&mut self) -> Judgement {
        self.overall.look();
        for test in &mut self.checks {
            test.look();
        }
        self.judgement()
    }

    /// Ends a stretch of time, where weights change.
    pub fn cut(&mut self) {
        self.overall.cut();
        self.checks.iter_mut().for_each(PassRate::cut);
    }

    /// What is known now.
    ///
    /// One test that aborts is enough. A canary is promoted if it is not worse overall, and no check leans towards a
    /// drop: else one that got worse could hide behind one that got better.
    pub fn judgement(&self) -> Judgement {
        let findings = self.findings();
        let of = |verdict: Verdict| findings.iter().filter(move |(_, finding)| finding.verdict == verdict);
        if of(Verdict::Abort).next().is_some() {
            let named = findings.iter().skip(1).any(|(_, finding)| finding.verdict == Verdict::Abort);
            // All together may tell before any check alone does; then the check that is most to blame is told too.
            let most = findings.iter().skip(1).max_by(|a, b| a.1.evidence.total_cmp(&b.1.evidence));
            let most = most.filter(|(_, finding)| !named && finding.evidence > 0.0);
            return Judgement { verdict: Verdict::Abort, why: told(of(Verdict::Abort).chain(most)) };
        }
        let overall = self.overall.finding();
        let leaning = |(_, finding): &&(&str, Finding)| finding.evidence > 0.0;
        let verdict = match overall.verdict {
            Verdict::Promote if !findings.iter().any(|finding| leaning(&finding)) => Verdict::Promote,
            _ => Verdict::Continue,
        };
        let why = if overall.verdict == Verdict::Promote && verdict == Verdict::Continue {
            told(findings.iter().filter(leaning))
        } else {
            told(findings.iter().take(1))
        };
        Judgement { verdict, why }
    }

    /// Each test's name and finding; `overall` first.
    pub fn findings(&self) -> Vec<(&str, Finding)> {
        self.tests().map(|(name, test)| (name, test.finding())).collect()
    }

    /// Each test under its name; `overall` first. One check alone is what is overall, and gives its name.
    fn tests(&self) -> impl Iterator<Item = (&str, &PassRate)> {
        let overall = match self.names.as_slice() {
            [only] => only.as_str(),
            _ => OVERALL,
        };
        let checks = self.names.iter().map(String::as_str).zip(&self.checks);
        std::iter::once((overall, &self.overall)).chain(checks)
    }
}

fn told<'f>(findings: impl Iterator<Item = &'f (&'f str, Finding)>) -> String {
    findings.map(|(name, finding)| format!("`{name}`: {finding}")).collect::<Vec<_>>().join(". ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { margin: 0.05, alpha: 0.01, power: 0.95, min_samples: 30 };

    fn names(checks: usize) -> Vec<String> {
        (0..checks).map(|i| format!("check-{i}")).collect()
    }

    fn after(minutes: u64, canary: &[u64], stable: &[u64]) -> Judgement {
        play(&mut Panel::new(names(canary.len()), TERMS), 0..minutes, canary, stable)
    }

    /// Minutes of 60 canary and 300 stable answers; of each check, how many of 60 answers fail.
    fn play(panel: &mut Panel, minutes: std::ops::Range<u64>, canary: &[u64], stable: &[u64]) -> Judgement {
        let mut judgement = panel.judgement();
        for minute in minutes {
            for (arm, answers, failing) in [(Arm::Canary, 60, canary), (Arm::Stable, 300, stable)] {
                for i in 0..answers {
                    let user = UserCell::of((minute * 1000 + i).wrapping_mul(0x9E37_79B9_7F4A_7C15));
                    // Each check fails for answers of its own.
                    let outcome = |(check, failing): (usize, &u64)| {
                        let place = (i + 60 - 12 * check as u64) % 60;
                        if place < *failing { Outcome::Failed } else { Outcome::Passed }
                    };
                    let outcomes: Vec<Option<Outcome>> =
                        failing.iter().enumerate().map(outcome).map(Some).collect();
                    panel.observe(arm, user, &outcomes);
                }
            }
            judgement = panel.look();
        }
        judgement
    }

    #[test]
    fn the_check_that_got_worse_is_named() {
        let judgement = after(20, &[3, 3, 12], &[3, 3, 3]);
        assert_eq!(judgement.verdict, Verdict::Abort);
        assert!(
            judgement.why.contains("`check-2`: abort") && !judgement.why.contains("check-0"),
            "{judgement:?}"
        );
    }

    #[test]
    fn nothing_worse_is_promoted() {
        let judgement = after(30, &[3, 3], &[3, 3]);
        assert_eq!(judgement.verdict, Verdict::Promote);
        assert!(judgement.why.starts_with("`overall`: promote: 90.0 %"), "{judgement:?}");
        assert!(after(30, &[3], &[3]).why.starts_with("`check-0`: promote"));
    }

    #[test]
    fn a_check_that_got_better_hides_none_that_got_worse() {
        // not yet enough for an abort
        let judgement = after(8, &[5, 0], &[3, 6]);
        assert_eq!(judgement.verdict, Verdict::Continue, "{judgement:?}");
        assert!(judgement.why.starts_with("`check-0`: "), "{judgement:?}");
    }

    #[test]
    fn a_panel_goes_on_after_a_restart_if_its_checks_are_the_same() {
        for checks in [&[3, 5][..], &[3]] {
            let mut whole = Panel::new(names(checks.len()), TERMS);
            play(&mut whole, 0..6, checks, checks);
            let mut written = whole.snapshots();
            written.reverse();
            assert!(Panel::resume(names(checks.len() + 1), TERMS, written.clone()).is_none());
            let others = checks.iter().enumerate().map(|(i, _)| format!("other-{i}")).collect();
            assert!(Panel::resume(others, TERMS, written.clone()).is_none());
            let mut resumed = Panel::resume(names(checks.len()), TERMS, written).unwrap();
            assert_eq!(play(&mut resumed, 6..30, checks, checks), play(&mut whole, 6..30, checks, checks));
            assert_eq!(resumed.findings(), whole.findings());
        }
    }
}
