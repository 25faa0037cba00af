//! The host's choice of tokens: see `choice`.

use super::team;
use crate::tensor::choice::{Choice, GREEDY, UNIT, by_rank, greatest};

/// How many candidates are sorted first for `top_p`; more only where these do not have the mass.
const FIRST_SORTED: usize = 256;

/// Room that one choice after another works in.
#[derive(Debug, Default)]
struct Scratch {
    logits: Vec<f32>,
    candidates: Vec<(u32, f32)>,
}

/// A token for each row of logits; none where a row has a number that is none, or nothing above minus infinity.
pub(in crate::tensor) fn choose(rows: &[&[f32]], choices: &[Choice]) -> Vec<Option<u32>> {
    let mut chosen = vec![None; rows.len()];
    let part = rows.len().div_ceil(4 * team::threads()).max(1);
    let parts: Vec<_> = chosen.chunks_mut(part).zip(rows.chunks(part)).zip(choices.chunks(part)).collect();
    team::consume(parts, |((chosen, rows), choices)| {
        let mut scratch = Scratch::default();
        for ((chosen, row), choice) in chosen.iter_mut().zip(rows).zip(choices) {
            *chosen = choose_one(row, choice, &mut scratch);
        }
    });
    chosen
}

fn choose_one(logits: &[f32], choice: &Choice, scratch: &mut Scratch) -> Option<u32> {
    let max = greatest(logits)?;
    let Scratch { logits: copy, candidates } = scratch;
    if choice.edits.is_empty() && choice.allowed.is_none() {
        return filter_and_draw(logits, max, choice, candidates);
    }
    copy.clear();
    copy.extend_from_slice(logits);
    if let Some(allowed) = &choice.allowed {
        allowed.apply(copy);
    }
    for edit in &choice.edits {
        if let Some(logit) = copy.get_mut(edit.token as usize) {
            *logit = edit.of(*logit);
        }
    }
    let max = greatest(copy)?;
    filter_and_draw(copy, max, choice, candidates)
}

fn filter_and_draw(
    logits: &[f32],
    max: f32,
    choice: &Choice,
    candidates: &mut Vec<(u32, f32)>,
) -> Option<u32> {
    if choice.temperature < GREEDY {
        return logits.iter().position(|l| *l >= max).map(|best| best as u32);
    }
    // Relative to the greatest, whose weight is 1.
    let least = choice.min_p.max(f32::MIN_POSITIVE);
    let weights = logits.iter().map(|logit| ((logit - max) / choice.temperature).exp());
    candidates.clear();
    candidates.extend((0u32..).zip(weights).filter(|(_, weight)| *weight >= least));
    if choice.top_k > 0 {
        keep_best(candidates, choice.top_k as usize);
    }
    if choice.top_p < 1.0 {
        keep_mass(candidates, choice.top_p);
    }
    Some(pick(candidates, choice.random))
}

fn keep_best(candidates: &mut Vec<(u32, f32)>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, by_rank);
        candidates.truncate(k);
        candidates.sort_unstable_by_key(|(token, _)| *token);
    }
}

/// Keeps the fewest of the likeliest that together reach `share` of the whole.
fn keep_mass(candidates: &mut Vec<(u32, f32)>, share: f32) {
    let wanted = (f64::from(share) * mass(candidates) as f64) as u64;
    let mut sorted = FIRST_SORTED.min(candidates.len());
    loop {
        if sorted < candidates.len() {
            candidates.select_nth_unstable_by(sorted, by_rank);
        }
        candidates[..sorted].sort_unstable_by(by_rank);
        let mut sum = 0;
        let reached = candidates[..sorted].iter().position(|(_, weight)| {
            sum += units(*weight);
            sum >= wanted
        });
        if let Some(last) = reached {
            candidates.truncate(last + 1);
            return candidates.sort_unstable_by_key(|(token, _)| *token);
        }
        if sorted == candidates.len() {
            return candidates.sort_unstable_by_key(|(token, _)| *token);
        }
        sorted = (sorted * 8).min(candidates.len());
    }
}

fn units(weight: f32) -> u64 {
    (weight * UNIT) as u64
}

fn mass(candidates: &[(u32, f32)]) -> u64 {
    candidates.iter().map(|(_, weight)| units(*weight)).sum()
}

/// The candidate at this part of the whole. There is at least one: the greatest logit's.
fn pick(candidates: &[(u32, f32)], random: u64) -> u32 {
    let wanted = ((u128::from(random) * u128::from(mass(candidates))) >> 64) as u64;
    let mut sum = 0;
    let found = candidates.iter().find(|(_, weight)| {
        sum += units(*weight);
        sum > wanted
    });
    found.or(candidates.last()).map_or(0, |(token, _)| *token)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tensor::{Edit, TokenMask};

    fn hot() -> Choice {
        Choice {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            random: 0,
            allowed: None,
            edits: Vec::new(),
        }
    }

    /// Random numbers that cover their range evenly.
    fn draws(n: u64) -> impl Iterator<Item = u64> {
        (0..n).map(move |i| u64::MAX / n * i + i)
    }

    fn drawn(logits: &[f32], choice: &Choice) -> BTreeSet<u32> {
        let choices: Vec<Choice> = draws(400).map(|random| Choice { random, ..choice.clone() }).collect();
        choose(&vec![logits; 400], &choices).into_iter().map(Option::unwrap).collect()
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_equals() {
        let greedy = Choice { temperature: 0.0, ..hot() };
        assert_eq!(drawn(&[1.0, 3.0, 3.0, 2.0], &greedy), BTreeSet::from([1]));
        let banned = vec![Edit { minus: f32::INFINITY, ..Edit::none(1) }];
        assert_eq!(drawn(&[1.0, 3.0, 3.0, 2.0], &Choice { edits: banned, ..greedy }), BTreeSet::from([2]));
    }

    #[test]
    fn each_filter_keeps_what_it_says() {
        // Probabilities 0.4, 0.3, 0.2, 0.1.
        let logits = [0.4f32, 0.3, 0.2, 0.1].map(f32::ln);
        assert_eq!(drawn(&logits, &hot()).len(), 4);
        assert_eq!(drawn(&logits, &Choice { top_k: 2, ..hot() }), BTreeSet::from([0, 1]));
        assert_eq!(drawn(&logits, &Choice { top_p: 0.65, ..hot() }), BTreeSet::from([0, 1]));
        assert_eq!(drawn(&logits, &Choice { min_p: 0.45, ..hot() }), BTreeSet::from([0, 1, 2]));
        let edits = vec![Edit { bias: 100.0, ..Edit::none(3) }];
        assert_eq!(drawn(&logits, &Choice { edits, ..hot() }), BTreeSet::from([3]));
        assert_eq!(drawn(&[0.0; 5], &Choice { top_k: 2, ..hot() }), BTreeSet::from([0, 1]), "of equals");
    }

    #[test]
    fn only_what_is_allowed_is_chosen_whatever_is_likelier_or_favoured() {
        let mut logits = vec![9.0; 70];
        (logits[2], logits[33], logits[69]) = (0.0, 1.0, -1.0);
        let allowed = Some(TokenMask::of([2, 33, 69], 70));
        let hot = Choice { allowed, ..hot() };
        assert_eq!(drawn(&logits, &hot), BTreeSet::from([2, 33, 69]));
        assert_eq!(drawn(&logits, &Choice { temperature: 0.0, ..hot.clone() }), BTreeSet::from([33]));
        // the likeliest are those of what is allowed
        assert_eq!(drawn(&logits, &Choice { top_k: 2, ..hot.clone() }), BTreeSet::from([2, 33]));
        let edits = vec![Edit { bias: 100.0, ..Edit::none(5) }, Edit { bias: 100.0, ..Edit::none(69) }];
        assert_eq!(drawn(&logits, &Choice { edits, ..hot.clone() }), BTreeSet::from([69]));
        let nothing = Choice { allowed: Some(TokenMask::new([0; 3])), ..hot.clone() };
        assert_eq!(choose(&[&logits], &[nothing]), [None]);
        logits[0] = f32::NAN;
        assert_eq!(choose(&[&logits], &[hot]), [None], "no token hides a row that is broken");
    }

    #[test]
    fn a_mask_knows_whether_anything_is_left_beside_some_tokens() {
        let mask = TokenMask::of([3, 40], 64);
        assert!(mask.holds(3) && mask.holds(40) && !mask.holds(4) && !mask.holds(1000));
        assert!(mask.holds_others_than(&[]) && mask.holds_others_than(&[3, 4]));
        assert!(!mask.holds_others_than(&[40, 3]));
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let logits = [0.5f32, 0.3, 0.2].map(f32::ln);
        let choices: Vec<Choice> = draws(20_000).map(|random| Choice { random, ..hot() }).collect();
        let mut counts = [0u32; 3];
        for token in choose(&vec![&logits[..]; 20_000], &choices) {
            counts[token.unwrap() as usize] += 1;
        }
        for (count, p) in counts.iter().zip([0.5, 0.3, 0.2]) {
            assert!((f64::from(*count) / 20_000.0 - p).abs() < 0.001, "{counts:?}");
        }
    }

    #[test]
    fn top_p_over_a_flat_vocabulary_keeps_its_share() {
        let mut candidates: Vec<(u32, f32)> = (0u32..10_000).map(|token| (token, 1.0)).collect();
        keep_mass(&mut candidates, 0.5);
        assert_eq!(candidates.len(), 5_000);
        assert_eq!(candidates[4_999].0, 4_999);
    }

    #[test]
    fn logits_that_are_no_numbers_are_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(choose(&[&[0.0, bad]], &[hot()]), [None]);
        }
        let banned = Choice { edits: vec![Edit { minus: f32::INFINITY, ..Edit::none(0) }], ..hot() };
        assert_eq!(choose(&[&[0.0, f32::NEG_INFINITY]], &[banned]), [None]);
    }

    #[test]
    fn an_edit_works_in_its_order_and_leaves_a_number() {
        let edit = Edit { token: 0, bias: 1.0, repetition: 2.0, minus: 0.5 };
        assert_eq!([3.0, -5.0].map(|logit| edit.of(logit).to_bits()), [1.5_f32, -8.5].map(f32::to_bits));
        let wild = Edit { repetition: 1e-40, ..Edit::none(0) };
        assert_eq!(wild.of(4.0).to_bits(), f32::MAX.to_bits());
    }
}
