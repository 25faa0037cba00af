//! The sequential test of one pass rate: no drop against a drop of the margin.
//!
//! A conditional sequential probability ratio test. Time is cut into strata; in each, given how many answers each arm
//! had and how many failed in all, the canary's failures have a distribution that depends on the odds ratio alone (see
//! [`Table::log_likelihood_ratio`]). Their likelihood ratios multiply, so under 'no drop' their product is a
//! non-negative martingale of mean 1, whatever the pass rate does over the day and however the weights change: the
//! chance that it ever reaches 1 / alpha is at most alpha (Ville 1939; Wald, Sequential Analysis, 1947, chapter 6, for
//! two binomials). Where users repeat, its logarithm is divided by the design effect of their clusters. An abort looks
//! at its mixture with the evidence since each change of weights ([`Stretches`]), and stays; a promotion stands until
//! that leans towards a drop.

use serde::{Deserialize, Serialize};

use super::clusters::{Clusters, ClustersSnapshot};
use super::stretches::Stretches;
use super::table::{Arm, Counts, Table};
use super::verdict::{Finding, Verdict};
use super::{Outcome, UserCell};
use crate::config::Policy;

/// Answers that each arm needs before a look closes a stratum: with one arm empty it would say nothing, and what it
/// holds would be lost. The rule must not ask how the answers were.
const LEAST_IN_STRATUM: u64 = 1;

/// Larger jumps get no more back than this one does. Where stable hardly ever fails, a few failures are all the
/// evidence there is; then the excess is not spread evenly over a jump, and alpha would not hold.
const LARGEST_JUMP: f64 = 0.5;

/// What a test is held to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// The drop that must be caught, as a share: 0.03 for three percentage points.
    pub margin: f64,
    /// The most that the chance of a false abort may be.
    pub alpha: f64,
    /// The least that the chance of an abort may be where the drop is the margin.
    pub power: f64,
    /// Canary answers before which nothing is decided.
    pub min_samples: u64,
}

impl From<&Policy> for Terms {
    fn from(policy: &Policy) -> Self {
        Self {
            margin: policy.margin.share(),
            alpha: policy.alpha.get(),
            power: policy.power.get(),
            min_samples: policy.min_samples,
        }
    }
}

impl Terms {
    /// The evidence, a log-likelihood ratio, from which a canary is aborted if it comes there without a jump:
    /// ln(1 / alpha), by Ville's inequality.
    pub fn abort_at(&self) -> f64 {
        (1.0 / self.alpha).ln()
    }

    /// The evidence down to which it is promoted: Wald's ln(beta / (1 - alpha)), with half of beta. The rest is
    /// for [`Terms::ruled_out_at`] and for canaries that run out of traffic: each keeps a bad one from being aborted.
    pub fn promote_at(&self) -> f64 {
        ((1.0 - self.power) / 2.0 / (1.0 - self.alpha)).ln()
    }

    /// The absolute evidence down to which a canary is promoted: a quarter of beta is for being wrong about that.
    pub fn ruled_out_at(&self) -> f64 {
        ((1.0 - self.power) / 4.0).ln()
    }
}

/// One pass rate under test.
#[derive(Debug, Clone)]
pub struct PassRate {
    terms: Terms,
    /// The stratum that is being filled.
    open: Table,
    /// All strata that are closed.
    closed: Table,
    /// The log-likelihood ratio of the closed strata.
    evidence: f64,
    /// The same since each cut.
    stretches: Stretches,
    /// The log-likelihood ratio of 'the canary fails as often as the margin says alone' to 'as often as stable'.
    absolute: f64,
    clusters: Clusters,
    verdict: Verdict,
}

/// A test, to be written down and gone on from after a restart.
///
/// It is small whatever the traffic was: of each arm it names the 4096 users with the most answers, and keeps the rest
/// as sums. A user of the rest who asks again counts as a new one, so that his cluster is understated; no other is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    open: Table,
    closed: Table,
    evidence: f64,
    /// Older servers kept none.
    #[serde(default)]
    stretches: Stretches,
    absolute: f64,
    clusters: ClustersSnapshot,
    verdict: Verdict,
}

impl PassRate {
    /// What [`PassRate::resume`] goes on from.
    pub fn snapshot(&self) -> Snapshot {
        let Self { terms: _, open, closed, evidence, stretches, absolute, clusters, verdict } = self;
        Snapshot {
            open: *open,
            closed: *closed,
            evidence: *evidence,
            stretches: stretches.clone(),
            absolute: *absolute,
            clusters: clusters.snapshot(),
            verdict: *verdict,
        }
    }

    /// Goes on with a test. If nobody watched in between, [`PassRate::cut`] keeps what comes apart from what was.
    pub fn resume(terms: Terms, snapshot: Snapshot) -> Self {
        let Snapshot { open, closed, evidence, stretches, absolute, clusters, verdict } = snapshot;
        let clusters = Clusters::resume(clusters);
        Self { terms, open, closed, evidence, stretches, absolute, clusters, verdict }
    }

    /// What it is held to.
    pub(super) fn terms(&self) -> Terms {
        self.terms
    }

    /// A test that has seen nothing.
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            open: Table::default(),
            closed: Table::default(),
            evidence: 0.0,
            stretches: Stretches::default(),
            absolute: 0.0,
            clusters: Clusters::default(),
            verdict: Verdict::Continue,
        }
    }

    /// Takes one answer in.
    pub fn observe(&mut self, arm: Arm, user: UserCell, outcome: Outcome) {
        self.open.of(arm).add(outcome);
        self.clusters.add(arm, user, outcome);
    }

    /// Looks at what there is. An abort stays; a promotion holds until the evidence leans towards a drop. Looking often
    /// makes no error likelier; it only cuts time finer, as far as the traffic allows.
    pub fn look(&mut self) -> Finding {
        let Table { canary, stable } = self.open;
        if canary.answers >= LEAST_IN_STRATUM && stable.answers >= LEAST_IN_STRATUM {
            self.close_stratum();
        }
        self.judge();
        self.finding()
    }

    /// Ends a stretch of time, where weights change or nothing follows: what comes next is not compared with what was.
    pub fn cut(&mut self) {
        self.close_stratum();
        self.stretches.cut(self.closed.canary.answers + self.closed.stable.answers);
        self.judge();
    }

    /// Whether the next answer begins a stratum: only then may what counts as failed change.
    pub(super) fn is_between_strata(&self) -> bool {
        self.open == Table::default()
    }

    /// What is known now.
    pub fn finding(&self) -> Finding {
        let design_effect = self.clusters.design_effect();
        let mut seen = self.closed;
        seen.canary += self.open.canary;
        seen.stable += self.open.stable;
        Finding {
            verdict: self.verdict,
            canary: seen.canary,
            stable: seen.stable,
            canary_users: self.clusters.users(Arm::Canary),
            evidence: self.mixed(design_effect),
            whole: self.evidence / design_effect,
            absolute: self.absolute / design_effect,
            design_effect,
            terms: self.terms,
        }
    }

    fn close_stratum(&mut self) {
        let stratum = std::mem::take(&mut self.open);
        let log_likelihood_ratio = stratum.log_likelihood_ratio(self.log_odds_ratio(&stratum));
        self.evidence += log_likelihood_ratio;
        self.stretches.add(log_likelihood_ratio);
        self.absolute += self.absolute_evidence(&stratum);
        self.closed.canary += stratum.canary;
        self.closed.stable += stratum.stable;
    }

    /// Where hardly anything fails, how failures are split between the arms says next to nothing. But a canary that is
    /// worse by the margin fails at least as often as the margin, whatever stable does: few failures rule that out.
    /// The rate to compare with is stable's so far, which no answer of the stratum has a part in; it must be below the
    /// margin. Whatever rate of at least the margin is the true one, `exp(-absolute)` is a non-negative supermartingale.
    fn absolute_evidence(&self, stratum: &Table) -> f64 {
        let Counts { answers, failures } = self.closed.stable;
        let usual = (failures as f64 + 0.5) / (answers as f64 + 1.0);
        let margin = self.terms.margin;
        if usual >= margin {
            return 0.0;
        }
        let (failed, passed) =
            (stratum.canary.failures as f64, (stratum.canary.answers - stratum.canary.failures) as f64);
        failed * (margin / usual).ln() + passed * ((1.0 - margin) / (1.0 - usual)).ln()
    }

    /// The margin as a ratio of odds, at the failure rate that is the best guess before the stratum is split into arms:
    /// stable's so far, and the stratum's own margin, which the test takes as given.
    fn log_odds_ratio(&self, stratum: &Table) -> f64 {
        let failures = self.closed.stable.failures + stratum.canary.failures + stratum.stable.failures;
        let answers = self.closed.stable.answers + stratum.canary.answers + stratum.stable.answers;
        // Half a failure more, so that the odds are never 0.
        let rate = (failures as f64 + 0.5) / (answers as f64 + 1.0);
        let dropped = (rate + self.terms.margin).min(1.0 - 1e-3).max(rate);
        logit(dropped) - logit(rate)
    }

    /// The evidence for a drop, whenever it may have begun, as many independent answers would give it.
    fn mixed(&self, design_effect: f64) -> f64 {
        self.stretches.mixed_with(self.evidence, design_effect)
    }

    /// By how much evidence is past the boundary, in the mean that matters, when it first crosses it.
    ///
    /// Evidence for a drop comes in jumps: each failure of the canary adds about the log-odds ratio times stable's
    /// share. So it does not stop at the boundary but beyond it, anywhere within a jump j, and a boundary of
    /// ln(1 / alpha) would abort only alpha times E[exp(-excess)] = (1 - exp(-j)) / j of the good canaries (Siegmund,
    /// Sequential Analysis, 1985, chapter VIII, for the excess over the boundary). Asking for that much less gives the
    /// power back that it costs.
    fn overshoot(&self) -> f64 {
        let Table { canary, stable } = self.closed;
        let share = stable.answers as f64 / (canary.answers + stable.answers).max(1) as f64;
        let jump = self.log_odds_ratio(&Table::default()) * share / self.clusters.design_effect();
        let jump = jump.min(LARGEST_JUMP);
        if jump < 1e-9 { 0.0 } else { (jump / -(-jump).exp_m1()).ln() }
    }

    /// Only an abort is for ever. A canary that was found to be as good as stable is still watched: it may turn bad.
    fn judge(&mut self) {
        if self.verdict == Verdict::Abort {
            return;
        }
        self.verdict = self.verdict_now();
    }

    fn verdict_now(&self) -> Verdict {
        if self.closed.canary.answers < self.terms.min_samples {
            return Verdict::Continue;
        }
        let design_effect = self.clusters.design_effect();
        let evidence = self.mixed(design_effect);
        if evidence >= self.terms.abort_at() - self.overshoot() {
            return Verdict::Abort;
        }
        // Evidence that once sufficed does so until it leans the other way: near the boundary it would change its mind
        // at every look.
        let no_drop = self.verdict == Verdict::Promote
            || self.evidence / design_effect <= self.terms.promote_at()
            || self.absolute / design_effect <= self.terms.ruled_out_at();
        if no_drop && evidence <= 0.0 { Verdict::Promote } else { Verdict::Continue }
    }
}

fn logit(p: f64) -> f64 {
    (p / (1.0 - p)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { margin: 0.05, alpha: 0.01, power: 0.95, min_samples: 30 };

    /// A minute of traffic: answers and failures of each arm, every answer from another user.
    fn minute(test: &mut PassRate, user: &mut u64, canary: (u64, u64), stable: (u64, u64)) -> Verdict {
        for (arm, (answers, failures)) in [(Arm::Canary, canary), (Arm::Stable, stable)] {
            for i in 0..answers {
                *user += 1;
                let outcome = if i < failures { Outcome::Failed } else { Outcome::Passed };
                test.observe(arm, UserCell::of(user.wrapping_mul(0x9E37_79B9_7F4A_7C15)), outcome);
            }
        }
        test.look().verdict
    }

    fn after(minutes: usize, canary: (u64, u64), stable: (u64, u64)) -> Verdict {
        let (mut test, mut user) = (PassRate::new(TERMS), 0);
        (0..minutes).map(|_| minute(&mut test, &mut user, canary, stable)).last().unwrap()
    }

    #[test]
    fn a_drop_aborts_its_absence_promotes_and_little_traffic_decides_nothing() {
        assert_eq!(after(20, (50, 9), (450, 36)), Verdict::Abort);
        assert_eq!(after(20, (50, 4), (450, 36)), Verdict::Promote);
        assert_eq!(after(3, (6, 1), (60, 5)), Verdict::Continue);
    }

    #[test]
    fn where_nothing_fails_a_drop_is_ruled_out() {
        assert_eq!(after(20, (20, 0), (100, 0)), Verdict::Promote);
        assert_eq!(after(20, (20, 1), (100, 0)), Verdict::Abort, "5 % more than nothing is the margin");
    }

    #[test]
    fn nothing_is_decided_before_the_least_samples() {
        assert_eq!(after(1, (29, 29), (300, 0)), Verdict::Continue);
        assert_eq!(after(1, (30, 30), (300, 0)), Verdict::Abort);
    }

    /// Simpson's paradox: the canary is as good as stable at every hour, but most of its traffic comes in the bad one.
    #[test]
    fn a_bad_hour_is_not_the_canarys_fault() {
        let (mut test, mut user) = (PassRate::new(TERMS), 0);
        let mut verdict = Verdict::Continue;
        for hour in 0..40 {
            let bad = hour % 2 == 1;
            let (canary, stable) = if bad { ((40, 20), (10, 5)) } else { ((5, 0), (400, 0)) };
            verdict = minute(&mut test, &mut user, canary, stable);
        }
        let finding = test.finding();
        assert!(finding.canary.pass_rate() < finding.stable.pass_rate() - 0.3, "{finding}");
        assert_ne!(verdict, Verdict::Abort, "{finding}");
    }

    #[test]
    fn an_abort_stays() {
        let (mut test, mut user) = (PassRate::new(TERMS), 0);
        (0..20).for_each(|_| _ = minute(&mut test, &mut user, (50, 25), (450, 36)));
        assert_eq!(minute(&mut test, &mut user, (1000, 0), (1000, 500)), Verdict::Abort);
    }

    /// A good hour at 5 %, then 25 %, where every third answer fails: what the hour showed must not be paid off first.
    #[test]
    fn a_canary_that_turns_bad_at_a_later_weight_is_aborted_soon() {
        let (mut test, mut user) = (PassRate::new(TERMS), 0);
        (0..60).for_each(|_| _ = minute(&mut test, &mut user, (50, 4), (950, 76)));
        assert_eq!(test.finding().verdict, Verdict::Promote, "{}", test.finding());
        assert!(test.finding().whole < -10.0, "{}", test.finding());
        test.cut();
        let bad = (0..60).find(|_| {
            let verdict = minute(&mut test, &mut user, (25, 8), (75, 6));
            assert_eq!(PassRate::resume(TERMS, test.snapshot()).finding(), test.finding());
            verdict == Verdict::Abort
        });
        let found = test.finding();
        assert!(bad.is_some_and(|minutes| minutes < 10), "after {bad:?} minutes: {found}");
        assert!(found.whole < 0.0, "all strata together still speak for it: {found}");
        assert!(found.to_string().contains("began later"), "{found}");
    }

    #[test]
    fn a_promotion_is_taken_back_while_the_evidence_leans_towards_a_drop() {
        let (mut test, mut user) = (PassRate::new(TERMS), 0);
        (0..60).for_each(|_| _ = minute(&mut test, &mut user, (50, 4), (950, 76)));
        test.cut();
        let mut bad = (0..60).map(|_| minute(&mut test, &mut user, (10, 3), (90, 7)));
        let said: Vec<Verdict> = bad.by_ref().take_while(|verdict| *verdict != Verdict::Abort).collect();
        assert!(said.contains(&Verdict::Promote) && said.ends_with(&[Verdict::Continue]), "{said:?}");
    }

    #[test]
    fn what_an_older_server_wrote_is_gone_on_from_and_its_promotion_binds_nobody() {
        let (mut test, mut user) = (PassRate::new(TERMS), 0);
        (0..60).for_each(|_| _ = minute(&mut test, &mut user, (50, 4), (950, 76)));
        let mut written = serde_json::to_value(test.snapshot()).unwrap();
        written.as_object_mut().unwrap().remove("stretches").unwrap();
        assert_eq!(written["verdict"], "promote");
        let mut test = PassRate::resume(TERMS, serde_json::from_value(written).unwrap());
        test.cut();
        assert!((0..10).any(|_| minute(&mut test, &mut user, (25, 8), (75, 6)) == Verdict::Abort));
    }

    /// What was found stands until the evidence leans the other way, and not longer.
    #[test]
    fn a_promotion_stands_until_the_evidence_leans_towards_a_drop() {
        let (mut test, mut user) = (PassRate::new(TERMS), 0);
        while test.finding().verdict != Verdict::Promote {
            minute(&mut test, &mut user, (50, 4), (450, 36));
        }
        let (mut stood, mut ended) = (0, 0);
        for _ in 0..40 {
            let verdict = minute(&mut test, &mut user, (50, 6), (450, 36));
            let finding = test.finding();
            if finding.evidence > 0.0 {
                assert_ne!(verdict, Verdict::Promote, "{finding}");
                ended += 1;
            } else {
                assert_eq!(verdict, Verdict::Promote, "{finding}");
                stood += u32::from(finding.whole > TERMS.promote_at());
            }
        }
        assert!(stood > 0 && ended > 0, "{stood} looks beyond the boundary, {ended} that lean");
    }

    #[test]
    fn a_cut_keeps_what_came_before_apart() {
        let (mut test, mut user) = (PassRate::new(TERMS), 0);
        minute(&mut test, &mut user, (4, 4), (0, 0));
        test.cut();
        assert!(test.finding().whole.abs() < 1e-12, "one arm alone says nothing");
        minute(&mut test, &mut user, (0, 0), (400, 0));
        assert_eq!(test.finding().canary.answers, 4);
    }

    /// A day of one user's 90 answers an hour on the canary, beside many users of stable.
    fn beside_one_user(fails: bool, stable_failures: u64) -> Finding {
        let (mut test, mut user) = (PassRate::new(TERMS), 0);
        for _ in 0..24 {
            for _ in 0..90 {
                let outcome = if fails { Outcome::Failed } else { Outcome::Passed };
                test.observe(Arm::Canary, UserCell::of(u64::MAX), outcome);
            }
            minute(&mut test, &mut user, (0, 0), (900, stable_failures));
        }
        test.finding()
    }

    #[test]
    fn one_user_who_fails_everything_does_not_abort_and_one_who_passes_everything_does_not_promote() {
        for stable_failures in [0, 27, 72, 180] {
            let promoted = beside_one_user(false, stable_failures);
            assert_eq!(promoted.verdict, Verdict::Continue, "{stable_failures}: {promoted}");
        }
        for stable_failures in [27, 72, 180] {
            let aborted = beside_one_user(true, stable_failures);
            assert_eq!(aborted.verdict, Verdict::Continue, "{stable_failures}: {aborted}");
        }
    }

    /// Answers of both arms from a run of users; each user stays on his arm.
    fn traffic(test: &mut PassRate, users: std::ops::Range<u64>) {
        for user in users {
            let arm = if user % 10 == 0 { Arm::Canary } else { Arm::Stable };
            let outcome = if user % 11 < 1 { Outcome::Failed } else { Outcome::Passed };
            test.observe(arm, UserCell::of(user.wrapping_mul(0x9E37_79B9_7F4A_7C15)), outcome);
            if user % 50 == 49 {
                test.look();
            }
        }
    }

    #[test]
    fn a_resumed_test_goes_on_as_if_nothing_had_happened() {
        let (mut whole, mut first) = (PassRate::new(TERMS), PassRate::new(TERMS));
        // the same users come again after the restart
        for users in [0..333, 200..700] {
            traffic(&mut whole, users);
        }
        traffic(&mut first, 0..333);
        let text = serde_json::to_string(&first.snapshot()).unwrap();
        let mut resumed = PassRate::resume(TERMS, serde_json::from_str(&text).unwrap());
        traffic(&mut resumed, 200..700);
        let (resumed, whole) = (resumed.finding(), whole.finding());
        assert!(resumed.design_effect > 1.0, "some came twice");
        // JSON may cost a number its last digit
        assert!((resumed.evidence - whole.evidence).abs() < 1e-9, "{resumed} and {whole}");
        assert_eq!(Finding { evidence: whole.evidence, whole: whole.whole, ..resumed }, whole);
    }

    #[test]
    fn a_resumed_test_keeps_its_verdict() {
        let (mut test, mut user) = (PassRate::new(TERMS), 0);
        (0..20).for_each(|_| _ = minute(&mut test, &mut user, (50, 25), (450, 36)));
        let mut resumed = PassRate::resume(TERMS, test.snapshot());
        assert_eq!(minute(&mut resumed, &mut user, (1000, 0), (1000, 500)), Verdict::Abort);
        assert!(serde_json::to_string(&resumed.snapshot()).unwrap().len() < 200_000);
    }
}
