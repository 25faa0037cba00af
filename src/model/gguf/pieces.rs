//! The merges that a `SentencePiece` model makes, which its file does not list: it has a score for each piece instead.
//!
//! At each step that model joins the two neighbours whose piece has the highest score. So each way to make a piece of two
//! others is a merge, in the order of the scores of what they make; where these are equal, as `transformers` orders them.

use std::cmp::Ordering;
use std::collections::HashMap;

/// Bytes of the longest piece that is made of others.
const LONGEST: usize = 1024;

/// Two pieces that become one.
pub(super) type Merge = (String, String);

/// The merges of pieces with these scores; `ids` has those that take part. The first is made first.
pub(super) fn merges(pieces: &[&str], scores: &[f64], ids: &HashMap<&str, u32>) -> Vec<Merge> {
    let mut all: Vec<Made<'_>> = Vec::new();
    for (piece, score) in pieces.iter().zip(scores).filter(|(piece, _)| ids.contains_key(**piece)) {
        let first = all.len();
        // no model has a longer one, and each of its ends would be looked up
        let piece: &str = if piece.len() > LONGEST { continue } else { piece };
        all.extend(piece.char_indices().skip(1).filter_map(|(at, _)| {
            let (left, right) = piece.split_at(at);
            Some(Made { left, right, ids: (*ids.get(left)?, *ids.get(right)?), score: *score })
        }));
        all[first..].sort_by_key(|made| made.ids);
    }
    all.sort_by(Made::order);
    all.into_iter().map(|made| (made.left.to_owned(), made.right.to_owned())).collect()
}

/// A way to make a piece.
struct Made<'a> {
    left: &'a str,
    right: &'a str,
    ids: (u32, u32),
    /// Of what is made.
    score: f64,
}

impl Made<'_> {
    fn order(&self, other: &Self) -> Ordering {
        let lengths = |made: &Self| (made.left.chars().count(), made.right.chars().count());
        other.score.total_cmp(&self.score).then_with(|| lengths(other).cmp(&lengths(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_the_highest_score_is_made_first_in_all_ways_that_there_are() {
        let pieces = ["a", "b", "c", "ab", "bc", "abc", "é", "éa"];
        let scores = [-9.0, -9.0, -9.0, -2.0, -1.0, -3.0, -9.0, -0.5];
        let ids: HashMap<&str, u32> = pieces.iter().copied().zip(0..).collect();
        let found = merges(&pieces, &scores, &ids);
        let found: Vec<String> = found.iter().map(|(left, right)| format!("{left} {right}")).collect();
        assert_eq!(found, ["é a", "b c", "a b", "ab c", "a bc"]);
    }
}
