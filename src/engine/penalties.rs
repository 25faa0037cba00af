//! What a context holds of each token, for penalties.

use std::collections::HashMap;

use super::request::SamplingParams;

/// Repetition, presence and frequency penalties that do nothing.
const NEUTRAL: [f32; 3] = [1.0, 0.0, 0.0];

/// How often each token of a context was generated; zero for one that only the prompt has. Repetition looks at the
/// prompt, too, presence and frequency only at the answer.
#[derive(Debug, Clone, Default)]
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

    /// Each token, and how often it was generated.
    pub(super) fn tokens(&self) -> impl Iterator<Item = (u32, u32)> {
        self.0.iter().map(|(token, count)| (*token, *count))
    }
}
