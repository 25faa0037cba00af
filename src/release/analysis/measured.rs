//! What was measured of one answer, whatever it says.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Timing;

/// Measures of one answer. What does not make sense of it is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Measured {
    /// From admission to the last token. Of an answer that ran out of time, the time until then: it took no less.
    pub latency: Option<Duration>,
    /// From admission to the first token.
    pub first_token: Option<Duration>,
    /// Tokens of an answer that came to its end.
    pub output_tokens: Option<usize>,
}

impl Measured {
    /// The same without its times: those of a copy that nobody waits for are not comparable.
    #[must_use]
    pub const fn untimed(self) -> Self {
        Self { latency: None, first_token: None, ..self }
    }

    /// One of the times, in seconds.
    pub(super) fn seconds(&self, timing: Timing) -> Option<f64> {
        match timing {
            Timing::Latency => self.latency,
            Timing::TimeToFirstToken => self.first_token,
            Timing::TimePerOutputToken => self.per_token(),
        }
        .map(|time| time.as_secs_f64())
    }

    /// None for an answer of one token: nothing came behind it that could be timed.
    fn per_token(&self) -> Option<Duration> {
        let behind = u32::try_from(self.output_tokens?).ok()?.checked_sub(1).filter(|tokens| *tokens > 0)?;
        Some(self.latency?.saturating_sub(self.first_token?) / behind)
    }
}

/// A time as people read it.
pub(super) fn shown(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 0.01 => format!("{:.2} ms", seconds * 1e3),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{seconds:.2} s"),
    }
}

/// What rounding to whole tokens adds to the variance of a mean over this many users, by the square of the mean: answers
/// that happen to be all of one length are not certain.
pub(super) fn rounding(mean: Option<f64>, users: usize) -> f64 {
    mean.map_or(0.0, |mean| 1.0 / (12.0 * mean * mean * users as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_token_is_that_of_those_behind_the_first() {
        let ms = Duration::from_millis;
        let measured = |tokens| Measured {
            latency: Some(ms(1100)),
            first_token: Some(ms(100)),
            output_tokens: Some(tokens),
        };
        let per_token = |tokens| measured(tokens).seconds(Timing::TimePerOutputToken);
        assert_eq!((per_token(11), per_token(1), per_token(0)), (Some(0.1), None, None));
        assert_eq!(measured(5).seconds(Timing::Latency), Some(1.1));
        assert_eq!(Measured::default().seconds(Timing::TimeToFirstToken), None);
    }
}
