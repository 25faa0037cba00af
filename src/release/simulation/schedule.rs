//! A policy's steps as weights over minutes.

use crate::config::{Pause, Policy, Step};
use crate::ids::Weight;

/// Why a policy cannot be simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// It watches nothing.
    #[error("this policy has no step in which a canary is watched: there is nothing to simulate")]
    NoCanary,
}

/// What the canary gets in each minute of a rollout. While all traffic is the canary's there is nothing to compare it
/// with, so such minutes are not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(Vec<Minute>);

/// What the canary gets in one minute; one of the two is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Minute {
    /// Its share of the users.
    pub weight: Weight,
    /// The share of stable's requests that it gets a copy of.
    pub mirror: Weight,
}

impl Schedule {
    /// The minutes of a policy. A pause without an end lasts `open_end` minutes.
    pub fn of(policy: &Policy, open_end: usize) -> Result<Self, ScheduleError> {
        let mut all = Vec::new();
        let (mut weight, mut mirror) = (Weight::ZERO, Weight::ZERO);
        for step in &policy.steps {
            match step {
                Step::SetMirrorRoute(share) => mirror = *share,
                Step::SetWeight(next) => (weight, mirror) = (*next, Weight::ZERO),
                Step::Pause(_)
                    if weight == Weight::FULL || (weight, mirror) == (Weight::ZERO, Weight::ZERO) => {}
                Step::Pause(pause) => {
                    let minutes = match pause {
                        Pause::For(time) => time.as_secs().div_ceil(60) as usize,
                        Pause::UntilResumed => open_end,
                    };
                    all.extend(std::iter::repeat_n(Minute { weight, mirror }, minutes));
                }
            }
        }
        if all.is_empty() { Err(ScheduleError::NoCanary) } else { Ok(Self(all)) }
    }

    /// Minute by minute.
    pub fn minutes(&self) -> &[Minute] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ReadyMade;

    #[test]
    fn minutes_follow_the_steps() {
        let schedule = |policy: ReadyMade| Schedule::of(&policy.policy(), 7);
        let customer = schedule(ReadyMade::CustomerFacing).unwrap();
        let percent: Vec<f64> = customer.minutes().iter().map(|minute| minute.weight.percent()).collect();
        assert_eq!((percent.len(), percent[19], percent[20], percent[59]), (60, 5.0, 25.0, 25.0));
        assert_eq!(schedule(ReadyMade::Experimental).unwrap().minutes().len(), 7);
        assert_eq!(schedule(ReadyMade::Batch), Err(ScheduleError::NoCanary));
    }
}
