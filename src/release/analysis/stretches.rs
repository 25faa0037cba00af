//! Evidence since each cut, so that a canary that turns bad late is not shielded by what it showed before.
//!
//! The evidence over all strata must first lose what a good beginning gave it. So there is evidence that begins anew at
//! each cut, where weights change or the server was away, and an abort looks at the mixture of all of them: an
//! e-process for 'no drop' whatever the time from which the canary is worse (Shin, Ramdas and Rinaldo, E-detectors,
//! 2022).

use serde::{Deserialize, Serialize};

/// What the evidence over all strata weighs in the mixture; the stretches share the rest. More for them would find a
/// late drop sooner, and cost the power to find one that is there from the beginning.
const WHOLE: f64 = 0.97;

/// Stretches that are kept: with less than 1 / 400 of the mixture's rest, a later one would hardly be heard.
const MOST: usize = 16;

/// The log-likelihood ratio since each cut.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Stretches {
    evidence: Vec<f64>,
    /// Answers that had been seen at the last cut.
    cut_at: u64,
}

impl Stretches {
    /// What a stratum says counts for all that have begun.
    pub(super) fn add(&mut self, log_likelihood_ratio: f64) {
        self.evidence.iter_mut().for_each(|evidence| *evidence += log_likelihood_ratio);
    }

    /// A stretch begins, unless nothing was seen since the last one did. When one begins must not depend on how the
    /// answers were.
    pub(super) fn cut(&mut self, answers: u64) {
        if answers > self.cut_at {
            self.cut_at = answers;
            if self.evidence.len() < MOST {
                self.evidence.push(0.0);
            }
        }
    }

    /// The logarithm of the mixture of `whole`, the evidence over all strata, and that of each stretch.
    ///
    /// Their shares, and those of stretches that have not begun, sum to 1. One that has not begun has a likelihood ratio
    /// of 1 and is left out, so the mixture is never more than a non-negative martingale of mean 1: the chance that it
    /// ever reaches 1 / alpha is at most alpha, as for `whole` alone.
    pub(super) fn mixed_with(&self, whole: f64, design_effect: f64) -> f64 {
        let of_stretch = |(place, evidence): (usize, &f64)| ((1.0 - WHOLE) * share(place + 1), *evidence);
        let all = || {
            let stretches = self.evidence.iter().enumerate().map(of_stretch);
            std::iter::once((WHOLE, whole)).chain(stretches).map(|(share, e)| (share, e / design_effect))
        };
        let most = all().map(|(_, evidence)| evidence).fold(f64::NEG_INFINITY, f64::max);
        most + all().map(|(share, evidence)| share * (evidence - most).exp()).sum::<f64>().ln()
    }
}

/// 6 / (pi j)^2: however many stretches there are, together they have at most 1.
fn share(number: usize) -> f64 {
    6.0 / (std::f64::consts::PI * number as f64).powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(stretches: &[f64]) -> Stretches {
        Stretches { evidence: stretches.to_vec(), cut_at: 0 }
    }

    #[test]
    fn the_mixture_is_what_the_formula_says() {
        assert!((after(&[]).mixed_with(2.0, 1.0) - (2.0 + WHOLE.ln())).abs() < 1e-12);
        let rest = share(1) * 4.0_f64.exp() + share(2) * 1.0_f64.exp();
        let formula = WHOLE * (-3.0_f64).exp() + (1.0 - WHOLE) * rest;
        assert!((after(&[4.0, 1.0]).mixed_with(-3.0, 1.0) - formula.ln()).abs() < 1e-12);
        assert!((after(&[8.0, 2.0]).mixed_with(-6.0, 2.0) - formula.ln()).abs() < 1e-12);
        let extreme = after(&[-2000.0]).mixed_with(5000.0, 1.0);
        assert!((extreme - (5000.0 + WHOLE.ln())).abs() < 1e-9, "{extreme}");
    }

    #[test]
    fn all_stretches_there_can_be_weigh_less_than_the_rest() {
        let begun = after(&[0.0; MOST]).mixed_with(0.0, 1.0);
        assert!(begun < 0.0 && begun > 0.99_f64.ln(), "{begun}");
    }

    #[test]
    fn an_empty_cut_begins_nothing_and_there_is_a_bound() {
        let mut stretches = Stretches::default();
        stretches.cut(0);
        assert!(stretches.evidence.is_empty());
        stretches.cut(5);
        stretches.cut(5);
        assert_eq!(stretches.evidence, [0.0]);
        stretches.add(1.5);
        (6..40).for_each(|answers| stretches.cut(answers));
        assert_eq!((stretches.evidence[0], stretches.evidence.len()), (1.5, MOST));
    }
}
