//! The choice of the next token. Pure: the same logits, settings and position give the same token.
//!
//! In the order of `vLLM`: bias, penalties, temperature, `min_p`, `top_k`, `top_p`, then one draw. The draw's random
//! number is the `ChaCha` stream of the request's seed at the token's own position, so that neither the batch nor a
//! second computation after preemption changes it.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::generation::Unusable;
use super::logprobs::by_rank;
use super::penalties::History;
use super::request::SamplingParams;

/// Below this, a temperature is zero: dividing by it would overflow.
const GREEDY: f32 = 1e-5;

/// How many candidates are sorted first for `top_p`; more only where these do not have the mass.
const FIRST_SORTED: usize = 256;

/// Which token of which request is chosen.
#[derive(Debug)]
pub(super) struct Draw<'a> {
    pub(super) params: &'a SamplingParams,
    pub(super) history: Option<&'a History>,
    /// How many tokens the request has generated before.
    pub(super) index: usize,
    /// Tokens that may not be chosen now.
    pub(super) banned: &'a [u32],
}

/// The greatest logit. Not-a-number, plus infinity, or nothing above minus infinity make a row unusable.
pub(super) fn greatest(logits: &[f32]) -> Result<f32, Unusable> {
    let mut max = f32::NEG_INFINITY;
    let mut nan = false;
    for logit in logits {
        nan |= logit.is_nan();
        max = max.max(*logit);
    }
    if nan || !max.is_finite() { Err(Unusable) } else { Ok(max) }
}

/// Room that one choice after another works in.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    logits: Vec<f32>,
    candidates: Vec<(u32, f32)>,
}

impl Draw<'_> {
    /// Whether the choice is from the logits as the model gave them.
    fn takes_them_as_they_are(&self) -> bool {
        self.params.logit_bias.is_empty() && self.history.is_none() && self.banned.is_empty()
    }
}

/// Chooses a token.
pub(super) fn sample(logits: &[f32], draw: &Draw<'_>, scratch: &mut Scratch) -> Result<u32, Unusable> {
    let max = greatest(logits)?;
    let Scratch { logits: copy, candidates } = scratch;
    if draw.takes_them_as_they_are() {
        return choose(logits, max, draw, candidates);
    }
    copy.clear();
    copy.extend_from_slice(logits);
    adjust(copy, draw);
    let max = greatest(copy)?;
    choose(copy, max, draw, candidates)
}

/// Bias, penalties, and what may not be chosen.
fn adjust(logits: &mut [f32], draw: &Draw<'_>) {
    let params = draw.params;
    for (token, bias) in &params.logit_bias {
        if let Some(logit) = logits.get_mut(*token as usize) {
            *logit += bias;
        }
    }
    if let Some(history) = draw.history {
        history.penalize(logits, params);
    }
    for token in draw.banned {
        if let Some(logit) = logits.get_mut(*token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// Temperature, filters, draw. `max` is the greatest of the logits.
fn choose(
    logits: &[f32],
    max: f32,
    draw: &Draw<'_>,
    candidates: &mut Vec<(u32, f32)>,
) -> Result<u32, Unusable> {
    let params = draw.params;
    if params.temperature < GREEDY {
        let best = logits.iter().position(|l| *l >= max).ok_or(Unusable)?;
        return Ok(best as u32);
    }
    // Relative to the greatest, whose weight is 1.
    let least = params.min_p.max(f32::MIN_POSITIVE);
    let weights = logits.iter().map(|logit| ((logit - max) / params.temperature).exp());
    candidates.clear();
    candidates.extend((0u32..).zip(weights).filter(|(_, weight)| *weight >= least));
    if let Some(k) = params.top_k {
        keep_best(candidates, k.get() as usize);
    }
    if params.top_p < 1.0 {
        keep_mass(candidates, f64::from(params.top_p));
    }
    Ok(pick(candidates, uniform(params.seed, draw.index)))
}

fn keep_best(candidates: &mut Vec<(u32, f32)>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, by_rank);
        candidates.truncate(k);
        candidates.sort_unstable_by(by_rank);
    }
}

/// Keeps the fewest of the likeliest that together reach `share` of the whole.
fn keep_mass(candidates: &mut Vec<(u32, f32)>, share: f64) {
    let wanted = share * mass(candidates);
    let mut sorted = FIRST_SORTED.min(candidates.len());
    loop {
        if sorted < candidates.len() {
            candidates.select_nth_unstable_by(sorted, by_rank);
        }
        candidates[..sorted].sort_unstable_by(by_rank);
        let mut sum = 0.0;
        let reached = candidates[..sorted].iter().position(|(_, weight)| {
            sum += f64::from(*weight);
            sum >= wanted
        });
        if let Some(last) = reached {
            return candidates.truncate(last + 1);
        }
        if sorted == candidates.len() {
            return;
        }
        sorted = (sorted * 8).min(candidates.len());
    }
}

fn mass(candidates: &[(u32, f32)]) -> f64 {
    candidates.iter().map(|(_, weight)| f64::from(*weight)).sum()
}

/// From 0 up to but not with 1, with 53 bits.
fn uniform(seed: u64, index: usize) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index as u64);
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The candidate at this share of the whole. There is at least one: the greatest logit's.
fn pick(candidates: &[(u32, f32)], share: f64) -> u32 {
    let wanted = share * mass(candidates);
    let mut sum = 0.0;
    let found = candidates.iter().find(|(_, weight)| {
        sum += f64::from(*weight);
        sum > wanted
    });
    found.or(candidates.last()).map_or(0, |(token, _)| *token)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::num::NonZeroU32;

    use super::*;

    fn drawn(logits: &[f32], params: &SamplingParams, banned: &[u32]) -> BTreeSet<u32> {
        let mut scratch = Scratch::default();
        let mut one =
            |index| sample(logits, &Draw { params, history: None, index, banned }, &mut scratch).unwrap();
        (0..400).map(&mut one).collect()
    }

    fn hot() -> SamplingParams {
        SamplingParams { seed: 5, ..SamplingParams::default() }
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_equals() {
        let params = SamplingParams { temperature: 0.0, ..hot() };
        assert_eq!(drawn(&[1.0, 3.0, 3.0, 2.0], &params, &[]), BTreeSet::from([1]));
        assert_eq!(drawn(&[1.0, 3.0, 3.0, 2.0], &params, &[1]), BTreeSet::from([2]));
    }

    #[test]
    fn each_filter_keeps_what_it_says() {
        // Probabilities 0.4, 0.3, 0.2, 0.1.
        let logits = [0.4f32, 0.3, 0.2, 0.1].map(f32::ln);
        assert_eq!(drawn(&logits, &hot(), &[]).len(), 4);
        let top_k = SamplingParams { top_k: NonZeroU32::new(2), ..hot() };
        assert_eq!(drawn(&logits, &top_k, &[]), BTreeSet::from([0, 1]));
        let top_p = SamplingParams { top_p: 0.65, ..hot() };
        assert_eq!(drawn(&logits, &top_p, &[]), BTreeSet::from([0, 1]));
        let min_p = SamplingParams { min_p: 0.45, ..hot() };
        assert_eq!(drawn(&logits, &min_p, &[]), BTreeSet::from([0, 1, 2]));
        let bias = SamplingParams { logit_bias: vec![(3, 100.0)], ..hot() };
        assert_eq!(drawn(&logits, &bias, &[]), BTreeSet::from([3]));
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let logits = [0.5f32, 0.3, 0.2].map(f32::ln);
        let (mut counts, mut scratch) = ([0u32; 3], Scratch::default());
        for index in 0..20_000 {
            let draw = Draw { params: &hot(), history: None, index, banned: &[] };
            counts[sample(&logits, &draw, &mut scratch).unwrap() as usize] += 1;
        }
        for (count, p) in counts.iter().zip([0.5, 0.3, 0.2]) {
            assert!((f64::from(*count) / 20_000.0 - p).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn top_p_over_a_flat_vocabulary_keeps_its_share() {
        let logits = vec![0.0; 10_000];
        let mut candidates: Vec<(u32, f32)> = (0u32..).zip(logits.iter().map(|_| 1.0)).collect();
        keep_mass(&mut candidates, 0.5);
        assert_eq!(candidates.len(), 5_000);
        assert_eq!(candidates[4_999].0, 4_999);
    }

    #[test]
    fn logits_that_are_no_numbers_are_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            let draw = Draw { params: &hot(), history: None, index: 0, banned: &[] };
            assert_eq!(sample(&[0.0, bad], &draw, &mut Scratch::default()), Err(Unusable));
        }
        let draw = Draw { params: &hot(), history: None, index: 0, banned: &[0] };
        assert_eq!(sample(&[0.0, f32::NEG_INFINITY], &draw, &mut Scratch::default()), Err(Unusable));
    }
}
