//! What the analysis says, with its reasons.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::pass_rate::Terms;
use super::table::Counts;

/// What to do with a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Go on watching.
    Continue,
    /// It is not worse by the margin.
    Promote,
    /// It is worse.
    Abort,
    /// The time is over, and the traffic did not suffice to tell.
    Inconclusive,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Continue => "continue",
            Self::Promote => "promote",
            Self::Abort => "abort",
            Self::Inconclusive => "inconclusive",
        })
    }
}

/// A verdict and the numbers behind it. Shown as one sentence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finding {
    /// What to do.
    pub verdict: Verdict,
    /// The canary's answers.
    pub canary: Counts,
    /// Stable's answers over the same time.
    pub stable: Counts,
    /// Users that the canary has answered.
    pub canary_users: usize,
    /// The log-likelihood ratio of a drop of the margin, whenever it may have begun, to no drop, for independent
    /// answers: what an abort is compared with. Above 0 it leans towards a drop.
    pub evidence: f64,
    /// The same of a drop from the beginning on: what a promotion is compared with.
    pub whole: f64,
    /// The log-likelihood ratio of a canary that fails as often as the margin says alone, to one that fails as stable
    /// does; of use where stable hardly ever fails.
    pub absolute: f64,
    /// How many answers are worth one independent one; see `docs/rollouts.md`.
    pub design_effect: f64,
    /// What the test is held to.
    pub terms: Terms,
}

impl Finding {
    /// The same, once no more traffic will come.
    #[must_use]
    pub fn at_the_end(self) -> Self {
        match self.verdict {
            Verdict::Continue => Self { verdict: Verdict::Inconclusive, ..self },
            _ => self,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, canary, stable, terms, .. } = self;
        let margin = terms.margin * 100.0;
        let (ours, theirs) = (canary.pass_rate() * 100.0, stable.pass_rate() * 100.0);
        write!(
            f,
            "{verdict}: {ours:.1} % of {} canary answers pass, {theirs:.1} % of {} stable ones over the same time",
            canary.answers, stable.answers
        )?;
        if self.design_effect > 1.0 {
            write!(f, " (repeated users make {:.1} answers worth one)", self.design_effect)?;
        }
        let odds = |log: f64| {
            if log >= 0.0 {
                format!("{} to 1", show(log.exp()))
            } else {
                format!("1 to {}", show((-log).exp()))
            }
        };
        let (abort, promote) = (odds(terms.abort_at()), odds(terms.promote_at()));
        // Only a stretch that has more evidence than the whole can lift the mixture above it.
        let late = if self.evidence > self.whole { " that began later" } else { "" };
        match verdict {
            Verdict::Abort => write!(
                f,
                "; a drop of {margin} points{late} explains that {} better than none, and {abort} was asked for",
                odds(self.evidence)
            ),
            Verdict::Promote if self.whole > terms.promote_at() => write!(
                f,
                "; were it worse by {margin} points, at least {margin} % would fail: it speaks {} for that, and {} rules it out",
                odds(self.absolute),
                odds(terms.ruled_out_at())
            ),
            Verdict::Promote => write!(
                f,
                "; for a drop of {margin} points it speaks {}, and {promote} rules that out",
                odds(self.whole)
            ),
            Verdict::Continue | Verdict::Inconclusive if canary.answers < terms.min_samples => {
                write!(f, "; {} canary answers are needed before anything is decided", terms.min_samples)
            }
            // Then it leans towards a drop that began later, or it would be promoted.
            Verdict::Continue | Verdict::Inconclusive if self.whole <= terms.promote_at() => write!(
                f,
                "; all of it speaks {} for a drop of {margin} points, but {} for one that began later, which keeps it \
                 from being promoted; {abort} is an abort",
                odds(self.whole),
                odds(self.evidence)
            ),
            Verdict::Continue | Verdict::Inconclusive => {
                let (late, found) =
                    if self.evidence > 0.0 { (late, self.evidence) } else { ("", self.whole) };
                let found = odds(found);
                write!(
                    f,
                    "; for a drop of {margin} points{late} it speaks {found}, between {promote} (promote) and {abort} (abort)"
                )
            }
        }
    }
}

/// Odds as people say them: `95`, `3.2`, `1e6`.
pub(super) fn show(odds: f64) -> String {
    match odds {
        odds if odds >= 1e6 => format!("{odds:.0e}"),
        odds if odds >= 10.0 => format!("{odds:.0}"),
        odds => format!("{odds:.1}"),
    }
}

/// A share as a percentage with at most two decimals: `95`, `99.9`.
pub(super) fn percent(share: f64) -> f64 {
    (share * 1e4).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_sentence_with_its_numbers() {
        let counts = |answers, failures| Counts { answers, failures };
        let terms = Terms { margin: 0.05, alpha: 0.01, power: 0.95, min_samples: 30 };
        let late = |verdict, canary, evidence, whole, design_effect| Finding {
            verdict,
            canary,
            stable: counts(3921, 314),
            canary_users: canary.answers as usize,
            evidence,
            whole,
            absolute: -5.0,
            design_effect,
            terms,
        };
        let finding =
            |verdict, canary, evidence, effect| late(verdict, canary, evidence, evidence + 0.1, effect);
        insta::assert_snapshot!(
            [
                finding(Verdict::Abort, counts(412, 70), 5.0, 1.0),
                finding(Verdict::Promote, counts(412, 30), -4.0, 1.0),
                finding(Verdict::Promote, counts(412, 0), 0.0, 1.0),
                finding(Verdict::Continue, counts(12, 1), 0.1, 1.0),
                finding(Verdict::Continue, counts(112, 12), 1.5, 2.34).at_the_end(),
                late(Verdict::Abort, counts(412, 50), 5.0, -2.0, 1.0),
                late(Verdict::Continue, counts(412, 50), 1.0, -4.0, 1.0),
                late(Verdict::Continue, counts(412, 50), 1.0, 0.2, 1.0),
            ]
            .map(|finding| finding.to_string())
            .join("\n")
        );
    }
}
