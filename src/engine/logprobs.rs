//! Scores from a model's raw logits.

use super::generation::Unusable;
use crate::model::{by_rank, greatest};

/// The least score: JSON has no minus infinity.
const LEAST: f32 = -9999.0;

/// A token's score with those of the likeliest.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Score {
    pub(super) token: u32,
    pub(super) logprob: f32,
    pub(super) top: Vec<(u32, f32)>,
}

/// The score of `token` and of the `n` likeliest.
pub(super) fn score(logits: &[f32], token: u32, n: u8) -> Result<Score, Unusable> {
    let max = greatest(logits).ok_or(Unusable)?;
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    let log_sum = f64::from(max) + sum.ln();
    let logprob = |logit: f32| ((f64::from(logit) - log_sum) as f32).max(LEAST);
    let n = usize::from(n).min(logits.len());
    let mut top: Vec<(u32, f32)> = Vec::new();
    if n > 0 {
        top = (0u32..).zip(logits.iter().copied()).collect();
        top.select_nth_unstable_by(n - 1, by_rank);
        top.truncate(n);
        top.sort_unstable_by(by_rank);
        for (_, value) in &mut top {
            *value = logprob(*value);
        }
    }
    Ok(Score { token, logprob: logprob(logits[token as usize]), top })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_a_log_softmax_and_minus_infinity_can_be_written_down() {
        let logits = [0.0, 2f32.ln(), 0.0, f32::NEG_INFINITY];
        let score = score(&logits, 3, 2).unwrap();
        assert!((score.logprob - LEAST).abs() < f32::EPSILON);
        assert_eq!(score.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 0]);
        assert!((score.top[0].1 - 0.5f32.ln()).abs() < 1e-6);
    }
}
