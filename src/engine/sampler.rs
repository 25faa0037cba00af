//! What the choice of the next token depends on, out of a request's settings and its past. Pure: the same settings,
//! past and position give the same choice.
//!
//! How the choice is made is `tensor`'s; on which device, the model's. The draw's random number is the `ChaCha` stream of
//! the request's seed at the token's own position, so that neither the batch nor a second computation after preemption
//! changes it.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::penalties::History;
use super::request::SamplingParams;
use crate::model::{Choice, Edit, TokenMask};

/// The choice of the token after `index` generated ones. `banned` may not be chosen now, unless nothing else of what is
/// allowed is left.
pub(super) fn choice(
    params: &SamplingParams,
    history: Option<&History>,
    index: usize,
    allowed: Option<&TokenMask>,
    banned: &[u32],
) -> Choice {
    let banned = if allowed.is_none_or(|allowed| allowed.holds_others_than(banned)) { banned } else { &[] };
    Choice {
        temperature: params.temperature,
        top_k: params.top_k.map_or(0, std::num::NonZero::get),
        top_p: params.top_p,
        min_p: params.min_p,
        random: random(params.seed, index),
        allowed: allowed.cloned(),
        edits: edits(params, history, banned),
    }
}

/// Bias, penalties, and what may not be chosen.
fn edits(params: &SamplingParams, history: Option<&History>, banned: &[u32]) -> Vec<Edit> {
    let mut edits: BTreeMap<u32, Edit> = BTreeMap::new();
    let mut edit = |token: u32, change: &dyn Fn(&mut Edit)| {
        change(edits.entry(token).or_insert(Edit::none(token)));
    };
    for (token, bias) in &params.logit_bias {
        edit(*token, &|edit| edit.bias += bias);
    }
    for (token, count) in history.iter().flat_map(|history| history.tokens()) {
        edit(token, &|edit| {
            edit.repetition = params.repetition_penalty;
            if count > 0 {
                edit.minus = params.presence_penalty + params.frequency_penalty * count as f32;
            }
        });
    }
    for token in banned {
        edit(*token, &|edit| edit.minus = f32::INFINITY);
    }
    edits.into_values().collect()
}

fn random(seed: u64, index: usize) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index as u64);
    rng.next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_edits_are_one_and_a_ban_is_the_last_word() {
        let params = SamplingParams {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            logit_bias: vec![(1, 3.0), (7, -1.0)],
            ..SamplingParams::default()
        };
        let mut history = History::of(&[0, 1], &params).unwrap();
        history.push(1);
        history.push(1);
        let choice = choice(&params, Some(&history), 0, None, &[7]);
        assert_eq!(
            choice.edits,
            [
                Edit { repetition: 2.0, ..Edit::none(0) },
                Edit { token: 1, bias: 3.0, repetition: 2.0, minus: 1.0 },
                Edit { bias: -1.0, minus: f32::INFINITY, ..Edit::none(7) },
            ]
        );
        assert!(History::of(&[0], &SamplingParams::default()).is_none());
        assert!(self::choice(&SamplingParams::default(), None, 0, None, &[]).edits.is_empty());
    }

    #[test]
    fn a_ban_gives_way_where_nothing_else_is_allowed() {
        let edits = |allowed: &[u32]| {
            let mask = TokenMask::of(allowed.iter().copied(), 64);
            choice(&SamplingParams::default(), None, 0, Some(&mask), &[40]).edits
        };
        assert_eq!(edits(&[3, 40]), [Edit { minus: f32::INFINITY, ..Edit::none(40) }]);
        assert!(edits(&[40]).is_empty());
    }

    #[test]
    fn a_draw_is_of_its_seed_and_its_position() {
        let at = |seed, index| {
            choice(&SamplingParams { seed, ..SamplingParams::default() }, None, index, None, &[]).random
        };
        assert_eq!(at(5, 3), at(5, 3));
        assert!(at(5, 3) != at(5, 4) && at(5, 3) != at(6, 3));
    }
}
