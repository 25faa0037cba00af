//! What a canary is held to beside its checks: how long its answers take, and how long they are.
//!
//! Each guardrail has a limit that is worse than 'no change', and tests 'within the limit'. They share an alpha of their
//! own (Bonferroni), so that the checks keep theirs: a canary that is no worse and within all limits is aborted with at
//! most the two together. A breach aborts. No guardrail promotes; but while one leans towards a breach, its best guess
//! beyond the limit, a canary is not promoted by itself.

use super::length_limit::LengthTest;
use super::panel::Judgement;
use super::table::{Arm, Counts};
use super::time_limit::TimeTest;
use super::verdict::Verdict;
use super::{Measured, UserCell};
use crate::config::Policy;

/// Before the name under which a guardrail's state is written down: no check's name has a colon.
const PREFIX: &str = "guardrail:";

/// The guardrails of one rollout.
#[derive(Debug, Clone)]
pub struct Guardrails {
    times: Vec<TimeTest>,
    length: Option<LengthTest>,
}

/// What one guardrail says.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitFinding {
    /// Its key in the policy.
    pub name: &'static str,
    /// How matters stand.
    pub standing: Standing,
    /// The canary's answers; those beyond a time as failures.
    pub canary: Counts,
    /// Stable's.
    pub stable: Counts,
    /// In a few words.
    pub brief: String,
    /// In a sentence, with its numbers.
    pub numbers: String,
}

/// How matters stand with a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Too little was seen.
    Unknown,
    /// The best guess is within the limit.
    Within,
    /// It is beyond, and may be so by chance.
    Leaning,
    /// It is beyond.
    Breached,
}

impl Guardrails {
    /// Those of a policy.
    pub fn new(policy: &Policy) -> Self {
        let limits = &policy.guardrails;
        let alpha = limits.alpha.get() / limits.count().max(1) as f64;
        let times = limits.times.iter();
        let times = times.map(|(timing, limit)| TimeTest::new(*timing, *limit, alpha, policy.min_samples));
        let length = limits.output_length.map(|limit| LengthTest::new(limit, alpha, policy.min_samples));
        Self { times: times.collect(), length }
    }

    /// Takes one answer in.
    pub fn observe(&mut self, arm: Arm, user: UserCell, measured: &Measured) {
        self.times.iter_mut().for_each(|test| test.observe(arm, user, measured));
        self.length.iter_mut().for_each(|test| test.observe(arm, user, measured));
    }

    /// Looks at what there is.
    pub fn look(&mut self) {
        self.times.iter_mut().for_each(TimeTest::look);
        self.length.iter_mut().for_each(LengthTest::look);
    }

    /// Ends a stretch of time, where weights change.
    pub fn cut(&mut self) {
        self.times.iter_mut().for_each(TimeTest::cut);
        self.length.iter_mut().for_each(LengthTest::cut);
    }

    /// What each says.
    pub fn findings(&self) -> Vec<LimitFinding> {
        self.times.iter().map(TimeTest::finding).chain(self.length.iter().map(LengthTest::finding)).collect()
    }

    /// What the checks say, and what the guardrails make of it.
    pub fn over(&self, judgement: Judgement) -> Judgement {
        let findings = self.findings();
        if findings.is_empty() {
            return judgement;
        }
        let told = |standing: Standing| {
            let such = findings.iter().filter(move |finding| finding.standing == standing);
            let told: Vec<_> =
                such.map(|finding| format!("guardrail `{}`: {}", finding.name, finding.numbers)).collect();
            (!told.is_empty()).then(|| told.join(". "))
        };
        let Judgement { verdict, why } = judgement;
        if let Some(breaches) = told(Standing::Breached) {
            let why = if verdict == Verdict::Abort {
                format!("{why}. Beside it, {breaches}")
            } else {
                format!("abort by {breaches}")
            };
            return Judgement { verdict: Verdict::Abort, why };
        }
        if verdict == Verdict::Promote
            && let Some(leaning) = told(Standing::Leaning)
        {
            let why = format!("{why}. But not yet, as it leans beyond a limit: {leaning}");
            return Judgement { verdict: Verdict::Continue, why };
        }
        let brief: Vec<_> = findings.into_iter().map(|finding| finding.brief).collect();
        Judgement { verdict, why: format!("{why}. Guardrails: {}", brief.join(", ")) }
    }

    /// What [`Guardrails::resume`] goes on from, as JSON under names that no check has.
    pub fn snapshots(&self) -> Vec<(String, Option<String>)> {
        let times = self.times.iter().map(|test| serde_json::to_string(&test.snapshot()).ok());
        let length = self.length.iter().map(|test| serde_json::to_string(&test.snapshot()).ok());
        let names = self.findings().into_iter().map(|finding| format!("{PREFIX}{}", finding.name));
        names.zip(times.chain(length)).collect()
    }

    /// Whether something was written down under this name by a guardrail.
    pub fn wrote(name: &str) -> bool {
        name.starts_with(PREFIX)
    }

    /// Goes on with those that are written down; the others begin anew, as each is a test of its own.
    pub fn resume(&mut self, written: &[(String, String)]) {
        let find = |name: &str| {
            let named = |(of, _): &&(String, String)| of.strip_prefix(PREFIX) == Some(name);
            written.iter().find(named).map(|(_, text)| text.as_str())
        };
        for test in &mut self.times {
            if let Some(snapshot) = find(test.finding().name).and_then(|text| serde_json::from_str(text).ok())
            {
                test.resume(snapshot);
            }
        }
        if let Some(test) = &mut self.length
            && let Some(snapshot) = find(test.finding().name).and_then(|text| serde_json::from_str(text).ok())
        {
            test.resume(snapshot);
        }
    }
}

#[cfg(test)]
#[path = "guardrails_tests.rs"]
mod tests;
