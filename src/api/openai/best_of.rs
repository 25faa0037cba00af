//! `best_of`: more answers are made than are given; those are given whose tokens the model found likeliest.

use std::num::NonZeroUsize;

use super::decoding::{Delivery, MAX_CHOICES, whole};
use crate::api::error::ApiError;
use crate::gateway::Decoding;

/// How many answers to each prompt are made, and how many given; more are made than given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BestOf {
    made: NonZeroUsize,
    given: NonZeroUsize,
}

/// How likely an answer's tokens are, as far as they are known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Score {
    sum: f64,
    tokens: usize,
}

impl BestOf {
    /// The parameter's value, where it asks for more than `n`.
    pub(super) fn parse(
        value: Option<i64>,
        given: NonZeroUsize,
        delivery: Delivery,
    ) -> Result<Option<Self>, ApiError> {
        let refused = |message: String| Err(ApiError::parameter("invalid_value", "best_of", message));
        let value = whole("best_of", value, 1, MAX_CHOICES as i64)?;
        let Some(made) = value.and_then(|value| NonZeroUsize::new(value as usize)) else { return Ok(None) };
        if made < given {
            return refused(format!("`best_of` is {made} and `n` is {given}: `best_of` must be `n` or more"));
        }
        match delivery {
            _ if made == given => Ok(None),
            Delivery::Whole => Ok(Some(Self { made, given })),
            Delivery::Events(_) => refused(format!(
                "`best_of` of {made} cannot be streamed: the best answers are known at the end; leave `stream` out"
            )),
        }
    }

    /// Asks for all the answers, with what it takes to compare them.
    pub(super) fn apply(self, decoding: &mut Decoding) {
        decoding.choices = self.made;
        decoding.logprobs.get_or_insert(0);
    }

    /// Of each prompt's answers the best, the best first, and of equals the earlier.
    pub(super) fn of<T>(self, answers: Vec<T>, scores: &[Score]) -> Vec<T> {
        let mut scored: Vec<(usize, &Score, T)> = answers
            .into_iter()
            .zip(scores)
            .enumerate()
            .map(|(i, (answer, score))| (i / self.made.get(), score, answer))
            .collect();
        scored.sort_by(|(prompt, score, _), (other, its, _)| {
            prompt.cmp(other).then(its.mean().total_cmp(&score.mean()))
        });
        let all = scored.into_iter().enumerate();
        all.filter(|(i, _)| i % self.made.get() < self.given.get()).map(|(_, (.., answer))| answer).collect()
    }
}

impl Score {
    /// Another token of the answer.
    pub(super) fn add(&mut self, logprob: f32) {
        self.sum += f64::from(logprob);
        self.tokens += 1;
    }

    /// For each token, so that long answers may win; nothing is as good as certain.
    fn mean(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.sum / self.tokens as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(made: usize, given: usize) -> BestOf {
        BestOf { made: NonZeroUsize::new(made).unwrap(), given: NonZeroUsize::new(given).unwrap() }
    }

    fn scores(means: &[f32]) -> Vec<Score> {
        let score = |mean: &f32| {
            let mut score = Score::default();
            score.add(mean - 1.0);
            score.add(mean + 1.0);
            score
        };
        means.iter().map(score).collect()
    }

    #[test]
    fn each_prompt_gets_its_own_best_answers_best_first() {
        let scores = scores(&[-3.0, -1.0, -2.0, -5.0, -6.0, -4.0]);
        assert_eq!(best(3, 2).of(vec!["a", "b", "c", "d", "e", "f"], &scores), ["b", "c", "f", "d"]);
    }

    #[test]
    fn of_equally_likely_answers_the_earlier_comes_first() {
        assert_eq!(best(3, 1).of(vec!["a", "b", "c"], &scores(&[-2.0, -1.0, -1.0])), ["b"]);
    }
}
