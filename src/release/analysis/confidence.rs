//! Confidence sequences: intervals that all hold at once, however often one looks and whenever one stops.
//!
//! An estimate of a difference, whose variance is `V`, is the score `S = estimate / V` at the information `I = 1 / V`;
//! over time, the scores of an efficient estimate of two means are a Brownian motion whose drift is the difference,
//! however traffic was split between the arms (Scharfstein, Tsiatis and Robins, JASA 92, 1997). Mixing the likelihood
//! ratios of all drifts with a normal distribution of variance `1 / lambda` gives a martingale (Robbins 1970), so
//!
//! ```text
//! |estimate - difference| < sqrt(V (1 + lambda V) (ln(1 + 1 / (lambda V)) + 2 ln(1 / alpha)))
//! ```
//!
//! at all times at once with probability `1 - alpha`. With an estimated variance it is the asymptotic confidence
//! sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (Annals of Statistics 52, 2024), whose `rho^2 t` is
//! `1 / (lambda V)` here.

/// An estimate and the variance that it has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimate {
    /// The estimate.
    pub(super) value: f64,
    /// Its variance, with the clusters of users in it.
    pub(super) variance: f64,
}

/// From where to where.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Interval {
    /// The least.
    pub(super) low: f64,
    /// The most.
    pub(super) high: f64,
}

/// Makes an estimate that is looked at again and again into intervals that hold together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ConfidenceSequence {
    /// The most that the chance may be that any of the intervals misses the truth.
    alpha: f64,
    /// The information of the mixture.
    lambda: f64,
}

impl ConfidenceSequence {
    /// Intervals that are tightest, for what is known by then, about where they reach this far to either side. The
    /// radius must not be chosen by looking at the answers.
    pub(super) fn tightest_at(radius: f64, alpha: f64) -> Self {
        // What minimises the radius for a given variance, nearly: Waudby-Smith et al., appendix B.2.
        let doubt = 2.0 * (1.0 / alpha).ln();
        let gained = doubt + (1.0 + doubt).ln();
        let errors = ((1.0 + 1.0 / gained) * ((1.0 + gained).ln() + doubt)).sqrt();
        let variance = (radius / errors).powi(2);
        Self { alpha, lambda: 1.0 / (gained * variance) }
    }

    /// How far an interval reaches to either side.
    pub(super) fn radius(&self, variance: f64) -> f64 {
        if variance <= 0.0 {
            return 0.0;
        }
        let gained = 1.0 / (self.lambda * variance);
        let doubt = 2.0 * (1.0 / self.alpha).ln();
        (variance * (1.0 + 1.0 / gained) * (gained.ln_1p() + doubt)).sqrt()
    }

    /// The interval of an estimate.
    pub(super) fn interval(&self, estimate: Estimate) -> Interval {
        let radius = self.radius(estimate.variance);
        Interval { low: estimate.value - radius, high: estimate.value + radius }
    }
}

impl Interval {
    /// Whether a value is in it.
    pub(super) fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    #[test]
    fn it_is_as_tight_as_asked_and_wider_where_less_is_known() {
        let sequence = ConfidenceSequence::tightest_at(0.2, 0.01);
        let radii: Vec<f64> = (1..12).map(|i| sequence.radius(0.1_f64.powi(i))).collect();
        assert!(radii.is_sorted_by(|a, b| a > b), "{radii:?}");
        // 3.57 standard errors at the time that it is made for, against 2.58 for one look alone
        let errors = |variance: f64| sequence.radius(variance) / variance.sqrt();
        let variance = (0.2 / 3.57_f64).powi(2);
        assert!((errors(variance) - 3.57).abs() < 0.01, "{}", errors(variance));
        assert!((sequence.radius(variance) - 0.2).abs() < 0.001);
        assert!(errors(variance / 1e3) < 4.5 && errors(variance * 10.0) < 4.5);
    }

    #[test]
    fn a_truth_is_missed_at_any_time_no_more_often_than_alpha() {
        let missed = |seed: u64| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let sequence = ConfidenceSequence::tightest_at(0.2, 0.1);
            let mut sum = 0.0;
            (1..=3000).any(|n| {
                let noise: f64 = StandardNormal.sample(&mut random);
                sum += noise;
                let n = f64::from(n);
                let estimate = Estimate { value: sum / n, variance: 1.0 / n };
                !sequence.interval(estimate).contains(0.0)
            })
        };
        let share = (0..1000).filter(|seed| missed(*seed)).count() as f64 / 1000.0;
        assert!((0.02..=0.1).contains(&share), "{share}");
    }
}
