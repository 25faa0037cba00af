//! `length`, `latency` and `finish-reason`: numbers and words that the answer comes with.

use std::time::Duration;

use super::FinishReason;
use super::checks::{Check, Finding};
use super::response::Subject;
use super::verdict::Judgement;
use crate::config::{Clock, LengthUnit};

/// The answer is neither too short nor too long.
pub(super) struct Length {
    pub(super) unit: LengthUnit,
    pub(super) min: Option<usize>,
    pub(super) max: Option<usize>,
}

impl Check for Length {
    fn judge(&self, subject: &Subject<'_>) -> Finding {
        let text = subject.text();
        let (length, unit) = match self.unit {
            LengthUnit::Chars => (text.chars().count(), "characters"),
            LengthUnit::Words => (text.split_whitespace().count(), "words"),
            LengthUnit::Tokens => (subject.response.output_tokens, "tokens"),
        };
        Ok(match (self.min, self.max) {
            (Some(min), _) if length < min => Judgement::fail(format!("{length} {unit}, fewer than {min}")),
            (_, Some(max)) if length > max => Judgement::fail(format!("{length} {unit}, more than {max}")),
            _ => Judgement::pass(format!("{length} {unit}")),
        })
    }
}

/// The answer came in time.
pub(super) struct Latency {
    pub(super) of: Clock,
    pub(super) max: Duration,
}

impl Check for Latency {
    fn judge(&self, subject: &Subject<'_>) -> Finding {
        let (time, what) = match self.of {
            Clock::Total => (Some(subject.response.elapsed), "to the end"),
            Clock::FirstToken => (subject.response.time_to_first_token, "to the first token"),
        };
        let Some(time) = time else { return Ok(Judgement::pass("no token was generated")) };
        let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
        Ok(if time > self.max {
            Judgement::fail(format!("{} {what}, more than {}", ms(time), ms(self.max)))
        } else {
            Judgement::pass(format!("{} {what}", ms(time)))
        })
    }
}

/// The answer ended for an allowed reason.
pub(super) struct EndedFor {
    pub(super) allowed: Vec<FinishReason>,
}

impl Check for EndedFor {
    fn judge(&self, subject: &Subject<'_>) -> Finding {
        let found = subject.response.finish_reason;
        if self.allowed.contains(&found) {
            return Ok(Judgement::pass(found.label()));
        }
        let allowed: Vec<_> = self.allowed.iter().map(|reason| reason.label()).collect();
        Ok(Judgement::fail(format!("ended for {}; allowed: {}", found.label(), allowed.join(", "))))
    }
}
