//! How two versions differ, measure by measure, with intervals that hold at every look.
//!
//! Shares of answers that pass are compared by their difference; times and lengths by their ratio, as there a difference
//! means nothing without what it is to. Each interval holds by itself with the stated confidence: whoever looks at ten
//! measures will find one of them wrong ten times as often.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::confidence::{ConfidenceSequence, Estimate, Interval};
use super::contrast::{Contrast, ContrastSnapshot, LEAST_USERS, Scale};
use super::measured::{rounding, shown as seconds};
use super::panel::OVERALL;
use super::{Arm, Measured, Outcome, UserCell};
use crate::config::Timing;

/// Where intervals of shares are tightest: three points to either side.
const POINTS: f64 = 0.03;

/// Where those of ratios are: ten percent to either side.
const PERCENT: f64 = 0.1;

/// All that is compared in one experiment. The treatment is the canary's arm, control is stable's.
#[derive(Debug, Clone)]
pub struct Differences {
    overall: Comparison,
    checks: Vec<Comparison>,
    tokens: Comparison,
    times: Vec<(Timing, Comparison)>,
}

/// One measure.
#[derive(Debug, Clone)]
struct Comparison {
    name: String,
    unit: Unit,
    sequence: ConfidenceSequence,
    contrast: Contrast,
}

/// What a mean is a mean of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// The share of answers that pass.
    Share,
    /// Output tokens.
    Tokens,
    /// Seconds.
    Seconds,
}

/// What is known of one measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// A check, `overall`, `finished`, `output_tokens` or a time.
    pub measure: String,
    /// Of the means.
    pub unit: Unit,
    /// The version that the other is compared with.
    pub control: ArmMeasure,
    /// The version that is tried.
    pub treatment: ArmMeasure,
    /// Treatment less control in shares, or treatment over control less 1; none before there is enough to tell.
    pub difference: Option<Bounds>,
}

/// One version's answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ArmMeasure {
    /// How many were measured.
    pub answers: u64,
    /// Of how many users.
    pub users: usize,
    /// Their mean; none without answers.
    pub mean: Option<f64>,
}

/// A difference and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// The best guess.
    pub estimate: f64,
    /// The least that it is, with the experiment's confidence at all looks together.
    pub low: f64,
    /// The most that it is.
    pub high: f64,
}

impl Differences {
    /// Of checks of these names, of times and of lengths, at this confidence.
    pub fn new(checks: &[String], confidence: f64) -> Self {
        let of = |name: &str, unit| Comparison::new(name, unit, 1.0 - confidence);
        Self {
            overall: of(OVERALL, Unit::Share),
            checks: checks.iter().map(|name| of(name, Unit::Share)).collect(),
            tokens: of("output_tokens", Unit::Tokens),
            times: Timing::ALL.map(|timing| (timing, of(in_seconds(timing), Unit::Seconds))).into(),
        }
    }

    /// Takes one answer in: what each check said of it, in the order of the names, if all could say something, and what
    /// was measured.
    pub fn observe(
        &mut self,
        arm: Arm,
        user: UserCell,
        outcomes: Option<&[Option<Outcome>]>,
        measured: &Measured,
    ) {
        let value = |passed: bool| if passed { 1.0 } else { 0.0 };
        if let Some(outcomes) = outcomes {
            for (check, outcome) in self.checks.iter_mut().zip(outcomes) {
                if let Some(outcome) = outcome {
                    check.contrast.observe(arm, user, value(*outcome == Outcome::Passed));
                }
            }
            self.overall.contrast.observe(arm, user, value(!outcomes.contains(&Some(Outcome::Failed))));
        }
        if let Some(tokens) = measured.output_tokens {
            self.tokens.contrast.observe(arm, user, tokens as f64);
        }
        for (timing, comparison) in &mut self.times {
            if let Some(seconds) = measured.seconds(*timing) {
                comparison.contrast.observe(arm, user, seconds);
            }
        }
    }

    /// What is known of each measure; `overall` first.
    pub fn findings(&self) -> Vec<Difference> {
        self.all().map(Comparison::finding).collect()
    }

    /// What [`Differences::resume`] goes on from, by measure.
    pub fn snapshots(&self) -> Vec<(String, String)> {
        let written = |comparison: &Comparison| {
            Some((comparison.name.clone(), serde_json::to_string(&comparison.contrast.snapshot()).ok()?))
        };
        self.all().filter_map(written).collect()
    }

    /// Goes on with what is written down. Nobody watched in between. Where it was written with other checks, what is
    /// overall is another question and begins anew.
    pub fn resume(&mut self, written: &[(String, String)]) {
        let (known, wanted): (BTreeSet<&str>, BTreeSet<&str>) = (
            written.iter().map(|(name, _)| name.as_str()).collect(),
            self.all().map(|comparison| comparison.name.as_str()).collect(),
        );
        let same = known == wanted;
        let times = self.times.iter_mut().map(|(_, comparison)| comparison);
        let overall = same.then_some(&mut self.overall);
        let some = overall.into_iter().chain([&mut self.tokens]).chain(&mut self.checks).chain(times);
        for comparison in some {
            let found = written.iter().find(|(name, _)| *name == comparison.name);
            let snapshot: Option<ContrastSnapshot> =
                found.and_then(|(_, text)| serde_json::from_str(text).ok());
            if let Some(snapshot) = snapshot {
                comparison.contrast = Contrast::resume(comparison.unit.scale(), snapshot);
                comparison.contrast.cut();
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &Comparison> {
        let times = self.times.iter().map(|(_, comparison)| comparison);
        std::iter::once(&self.overall).chain(&self.checks).chain([&self.tokens]).chain(times)
    }
}

/// The name of a time's measure. No check may have it.
const fn in_seconds(timing: Timing) -> &'static str {
    match timing {
        Timing::Latency => "latency_seconds",
        Timing::TimeToFirstToken => "time_to_first_token_seconds",
        Timing::TimePerOutputToken => "time_per_output_token_seconds",
    }
}

impl Unit {
    const fn scale(self) -> Scale {
        match self {
            Self::Share => Scale::Difference,
            Self::Tokens | Self::Seconds => Scale::LogRatio,
        }
    }
}

impl Comparison {
    fn new(name: &str, unit: Unit, alpha: f64) -> Self {
        let radius = if unit == Unit::Share { POINTS } else { PERCENT.ln_1p() };
        let sequence = ConfidenceSequence::tightest_at(radius, alpha);
        Self { name: name.to_owned(), unit, sequence, contrast: Contrast::new(unit.scale()) }
    }

    fn finding(&self) -> Difference {
        let arm = |arm| {
            let mean = self.contrast.mean(arm);
            ArmMeasure { answers: mean.answers, users: self.contrast.users(arm), mean: mean.mean() }
        };
        let (control, treatment) = (arm(Arm::Stable), arm(Arm::Canary));
        let enough = control.users.min(treatment.users) >= LEAST_USERS;
        let estimate = self.contrast.estimate().filter(|_| enough);
        let difference = estimate.map(|estimate| self.bounds(estimate, control, treatment));
        Difference { measure: self.name.clone(), unit: self.unit, control, treatment, difference }
    }

    fn bounds(&self, estimate: Estimate, control: ArmMeasure, treatment: ArmMeasure) -> Bounds {
        let more = |arm: ArmMeasure| match self.unit {
            // What one failure among its users would add: a version of which nothing has failed yet is not certain.
            Unit::Share => (arm.users as f64 + 2.0).powi(-2),
            Unit::Tokens => rounding(arm.mean, arm.users),
            Unit::Seconds => 0.0,
        };
        let variance = estimate.variance + more(control) + more(treatment);
        let estimate = Estimate { variance, ..estimate };
        let Interval { low, high } = self.sequence.interval(estimate);
        let shown =
            |value: f64| if self.unit == Unit::Share { value.clamp(-1.0, 1.0) } else { value.exp_m1() };
        Bounds { estimate: shown(estimate.value), low: shown(low), high: shown(high) }
    }
}

impl Difference {
    /// Whether the versions differ, as far as the confidence goes.
    pub fn differs(&self) -> bool {
        self.difference.is_some_and(|Bounds { low, high, .. }| low > 0.0 || high < 0.0)
    }
}

/// One sentence.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { measure, unit, control, treatment, difference } = self;
        let mean = |arm: &ArmMeasure| match (unit, arm.mean) {
            (_, None) => "nothing".to_owned(),
            (Unit::Share, Some(mean)) => format!("{:.1} %", mean * 100.0),
            (Unit::Tokens, Some(mean)) => format!("{mean:.1} tokens"),
            (Unit::Seconds, Some(mean)) => seconds(mean),
        };
        write!(
            f,
            "`{measure}`: {} in {} answers of treatment, {} in {} of control",
            mean(treatment),
            treatment.answers,
            mean(control),
            control.answers
        )?;
        let Some(Bounds { estimate, low, high }) = difference else {
            return write!(f, "; too few users to compare, {LEAST_USERS} of each are needed");
        };
        let unit = if *unit == Unit::Share { "points" } else { "%" };
        let shown = |value: &f64| format!("{:+.1}", (value * 1000.0).round() / 10.0 + 0.0);
        let (estimate, low, high) = (shown(estimate), shown(low), shown(high));
        write!(f, ": {estimate} {unit}, from {low} to {high}; ")?;
        f.write_str(if self.differs() { "they differ" } else { "it may be chance" })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;

    const CONFIDENCE: f64 = 0.9;

    /// Users who ask three times, and pass as their own luck has it; half of them are treated.
    fn play(
        differences: &mut Differences,
        random: &mut ChaCha8Rng,
        users: std::ops::Range<u64>,
        treated: f64,
    ) {
        let mut uniform = || (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        for user in users {
            let (arm, chance) = if user % 2 == 0 { (Arm::Canary, treated) } else { (Arm::Stable, 0.9) };
            let luck = chance + 0.2 * (uniform() - 0.5);
            for _ in 0..3 {
                let outcome = if uniform() < luck { Outcome::Passed } else { Outcome::Failed };
                let measured = Measured {
                    latency: Some(Duration::from_secs_f64(0.5 + uniform())),
                    first_token: None,
                    output_tokens: Some((100.0 * (1.0 + uniform() + luck)) as usize),
                };
                let user = UserCell::of(user.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                differences.observe(arm, user, Some(&[Some(outcome), Some(Outcome::Passed)]), &measured);
            }
        }
    }

    #[test]
    fn with_other_checks_what_is_overall_begins_anew_and_what_is_still_measured_goes_on() {
        let mut before = Differences::new(&names(), CONFIDENCE);
        play(&mut before, &mut ChaCha8Rng::seed_from_u64(7), 0..200, 0.8);
        let mut after = Differences::new(&names()[1..], CONFIDENCE);
        after.resume(&before.snapshots());
        let answers = |of: &Differences, name: &str| {
            of.findings()
                .iter()
                .find(|finding| finding.measure == name)
                .map(|finding| finding.control.answers)
        };
        assert_eq!(answers(&after, OVERALL), Some(0));
        assert!(answers(&before, OVERALL) > Some(0));
        for name in ["finished", "output_tokens"] {
            assert_eq!(answers(&after, name), answers(&before, name), "{name}");
        }
    }

    fn names() -> Vec<String> {
        ["is-json", "finished"].map(str::to_owned).into()
    }

    #[test]
    fn two_versions_that_are_the_same_are_called_different_no_more_often_than_agreed() {
        let runs = 1000_u64;
        let mut wrong = std::collections::BTreeMap::new();
        for seed in 0..runs {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut differences = Differences::new(&names(), CONFIDENCE);
            let mut differed = std::collections::BTreeSet::new();
            for look in 0..25 {
                play(&mut differences, &mut random, look * 40..(look + 1) * 40, 0.9);
                let findings = differences.findings().into_iter().filter(Difference::differs);
                differed.extend(findings.map(|finding| finding.measure));
            }
            for measure in differed {
                *wrong.entry(measure).or_insert(0_u64) += 1;
            }
        }
        assert!(wrong.values().all(|wrong| *wrong as f64 <= runs as f64 * (1.0 - CONFIDENCE)), "{wrong:?}");
        assert!(!wrong.contains_key("finished"), "nothing failed: {wrong:?}");
    }

    #[test]
    fn a_difference_is_found_and_told_in_a_sentence() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut differences = Differences::new(&names(), CONFIDENCE);
        let none = differences.findings();
        play(&mut differences, &mut random, 0..600, 0.7);
        let known = differences.findings();
        let told: Vec<_> = none.iter().take(2).chain(&known).map(ToString::to_string).collect();
        insta::assert_snapshot!(told.join("\n"));
        let differing: Vec<_> = known.iter().filter(|known| known.differs()).map(|k| &k.measure).collect();
        assert_eq!(differing, ["overall", "is-json", "output_tokens"]);
    }

    #[test]
    fn it_goes_on_after_a_restart() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut whole = Differences::new(&names(), CONFIDENCE);
        play(&mut whole, &mut random, 0..200, 0.8);
        let mut resumed = Differences::new(&names(), CONFIDENCE);
        resumed.resume(&whole.snapshots());
        assert_eq!(resumed.findings()[0].control, whole.findings()[0].control);
        play(&mut resumed, &mut random.clone(), 200..400, 0.8);
        play(&mut whole, &mut random, 200..400, 0.8);
        for (resumed, whole) in resumed.findings().iter().zip(whole.findings()) {
            assert_eq!((resumed.control, resumed.treatment), (whole.control, whole.treatment));
            let (resumed, whole) = (resumed.difference, whole.difference);
            let near = |a: f64, b: f64| (a - b).abs() < 0.02;
            assert!(
                resumed.zip(whole).is_none_or(|(r, w)| near(r.estimate, w.estimate) && near(r.low, w.low)),
                "{resumed:?} and {whole:?}"
            );
        }
    }
}
