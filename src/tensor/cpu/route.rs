//! Which experts rows go through.

use crate::tensor::experts::{Pick, Routing, Shares};

/// The experts of each row of `scores` `[rows, experts]`, the best first, and their shares: `[rows, per_token]`.
///
/// # Panics
/// If a row is to have more experts than there are.
pub(in crate::tensor) fn route(scores: &[f32], experts: usize, routing: Routing) -> Vec<Pick> {
    let mut picks = Vec::with_capacity(scores.len() / experts * routing.per_token);
    let mut order: Vec<u32> = Vec::with_capacity(experts);
    for scores in scores.chunks_exact(experts) {
        order.clear();
        order.extend(0..experts as u32);
        // stable, so that of equal scores the first expert's counts
        order.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
        let highest = scores[order[0] as usize];
        let weight = |expert: u32| (scores[expert as usize] - highest).exp();
        let picked = &order[..routing.per_token];
        let total: f32 = match routing.shares {
            Shares::Normalised => picked.iter().map(|expert| weight(*expert)).sum(),
            Shares::OfAll => (0..experts as u32).map(weight).sum(),
        };
        picks.extend(picked.iter().map(|expert| (*expert, weight(*expert) / total)));
    }
    picks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_experts_share_a_row_and_of_equal_ones_the_first() {
        let scores = [0.0, 2.0, 2.0, -1.0, /* the next row */ 3.0, 3.0, 3.0, 3.0];
        let picks = route(&scores, 4, Routing { per_token: 2, shares: Shares::Normalised });
        assert_eq!(picks, [(1, 0.5), (2, 0.5), (0, 0.5), (1, 0.5)]);
        let picks = route(&scores[4..], 4, Routing { per_token: 1, shares: Shares::OfAll });
        assert_eq!(picks, [(0, 0.25)]);
    }
}
