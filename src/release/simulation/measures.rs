//! How long synthetic answers take, and how long they are: log-normal, and alike for one user.
//!
//! They have random numbers of their own, so that the answers pass and fail as they do without them.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use std::time::Duration;

use super::traffic::Answer;
use crate::config::Policy;
use crate::release::analysis::{Arm, Measured};

/// Guardrails that are played, and what is measured.
#[derive(Debug, Clone)]
pub struct Guarded {
    /// Whose guardrails.
    pub policy: Policy,
    /// What is measured.
    pub measures: Measures,
}

/// How the canary's answers compare with stable's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measures {
    /// A canary's time over stable's, for an answer of the same length.
    pub latency_ratio: f64,
    /// A canary's mean length over stable's. Longer answers take longer.
    pub length_ratio: f64,
}

/// Streams of random numbers below this are those of the answers.
const STREAMS: u64 = 1 << 62;

/// Measures one answer after another.
pub(super) struct Meter {
    measures: Measures,
    icc: f64,
    random: ChaCha8Rng,
}

impl Measures {
    /// What makes no sense, and what would.
    pub fn check(&self) -> Result<(), String> {
        for (name, value) in [("latency-ratio", self.latency_ratio), ("length-ratio", self.length_ratio)] {
            if !(0.01..=100.0).contains(&value) {
                return Err(format!("{name} of {value} cannot be: give 0.01 to 100"));
            }
        }
        Ok(())
    }
}

impl Meter {
    /// Where the random numbers of a run come from.
    pub(super) fn seed(seed: u64, run: u64) -> ChaCha8Rng {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(STREAMS | run);
        random
    }

    pub(super) fn new(measures: Measures, icc: f64, random: ChaCha8Rng) -> Self {
        Self { measures, icc, random }
    }

    pub(super) fn measure(&mut self, answer: Answer) -> Measured {
        let Measures { latency_ratio, length_ratio } = match answer.arm {
            Arm::Canary => self.measures,
            Arm::Stable => Measures { latency_ratio: 1.0, length_ratio: 1.0 },
        };
        let user = self.of_user(answer);
        let tokens = (200.0 * length_ratio * (0.6 * self.normal(user)).exp()).ceil();
        let wait = 0.2 * latency_ratio * (0.5 * self.normal(user)).exp();
        let a_token = 0.02 * latency_ratio * (0.3 * self.normal(user)).exp();
        Measured {
            latency: Some(Duration::from_secs_f64(wait + a_token * tokens)),
            first_token: Some(Duration::from_secs_f64(wait)),
            output_tokens: Some(tokens as usize),
        }
    }

    /// What is peculiar to a user: always the same.
    fn of_user(&self, answer: Answer) -> f64 {
        if self.icc == 0.0 {
            return 0.0;
        }
        let mut random = self.random.clone();
        random.set_stream(STREAMS | STREAMS >> 1 | u64::from(answer.user.number()));
        random.set_word_pos(0);
        StandardNormal.sample(&mut random)
    }

    /// Standard normal; two of one user have the correlation `icc`.
    fn normal(&mut self, of_user: f64) -> f64 {
        let own: f64 = StandardNormal.sample(&mut self.random);
        self.icc.sqrt() * of_user + (1.0 - self.icc).sqrt() * own
    }
}
