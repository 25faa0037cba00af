//! What a token's past does to its logit.

use std::collections::HashMap;

use super::request::SamplingParams;

/// Repetition, presence and frequency penalties that do nothing.
const NEUTRAL: [f32; 3] = [1.0, 0.0, 0.0];

/// How often each token of a context was generated; zero for one that only the prompt has.
#[derive(Debug, Default)]
pub(super) struct History(HashMap<u32, u32>);

impl History {
    /// The history of a prompt, if these settings read it at all.
    pub(super) fn of(prompt: &[u32], params: &SamplingParams) -> Option<Self> {
        let penalties = [params.repetition_penalty, params.presence_penalty, params.frequency_penalty];
        (penalties.map(f32::to_bits) != NEUTRAL.map(f32::to_bits))
            .then(|| Self(prompt.iter().map(|token| (*token, 0)).collect()))
    }

    /// Adds a generated token.
    pub(super) fn push(&mut self, token: u32) {
        *self.0.entry(token).or_default() += 1;
    }

    /// Applies the penalties. Each token by itself, so the order does not matter.
    pub(super) fn penalize(&self, logits: &mut [f32], params: &SamplingParams) {
        for (token, count) in &self.0 {
            let Some(logit) = logits.get_mut(*token as usize) else { continue };
            // As in CTRL (arXiv:1909.05858) and transformers: away from likely, whatever the sign.
            *logit = if *logit > 0.0 {
                *logit / params.repetition_penalty
            } else {
                *logit * params.repetition_penalty
            };
            if *count > 0 {
                *logit -= params.presence_penalty + params.frequency_penalty * *count as f32;
            }
            // A logit that grows past the floats stays the greatest, and a number.
            *logit = logit.min(f32::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_looks_at_the_prompt_too_and_the_others_only_at_the_answer() {
        let params = SamplingParams {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..SamplingParams::default()
        };
        let mut history = History::of(&[0, 1], &params).unwrap();
        history.push(1);
        history.push(1);
        let mut logits = [4.0, -4.0, 1.0];
        history.penalize(&mut logits, &params);
        assert_eq!(logits.map(f32::to_bits), [2.0f32, -9.0, 1.0].map(f32::to_bits));
        assert!(History::of(&[0], &SamplingParams::default()).is_none());
    }

    #[test]
    fn a_logit_that_would_pass_the_floats_stays_a_number() {
        let params = SamplingParams { repetition_penalty: 1e-40, ..SamplingParams::default() };
        let mut logits = [4.0];
        History::of(&[0], &params).unwrap().penalize(&mut logits, &params);
        assert_eq!(logits.map(f32::to_bits), [f32::MAX.to_bits()]);
    }
}
