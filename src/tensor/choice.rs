//! The choice of one token from a row of logits: what it depends on, and the order in which it is made.
//!
//! In the order of `vLLM`: what is allowed, edits, temperature, `min_p`, `top_k`, `top_p`, then one draw. Host and GPU follow the same
//! rules to the bit where the exponentials agree: weights are `exp((logit - greatest) / temperature)`; of equal ones the
//! lower id comes first; shares of the whole are counted in whole numbers of [`UNIT`]s, so that no order of additions has
//! a part in them; and the draw goes through what is left by id.

use std::cmp::Ordering;
use std::sync::Arc;

/// How a token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// 0 takes the greatest logit, and of equals the lowest id.
    pub temperature: f32,
    /// Only this many of the likeliest; 0 for all.
    pub top_k: u32,
    /// Only the fewest of the likeliest that together have this share of what is left.
    pub top_p: f32,
    /// Only those with this share of the likeliest's weight.
    pub min_p: f32,
    /// The draw: a number out of 2^64, all of them alike.
    pub random: u64,
    /// Which tokens there are to choose from; nothing for all.
    pub allowed: Option<TokenMask>,
    /// What is changed before all that follows; a token at most once.
    pub edits: Vec<Edit>,
}

/// A set of tokens: token `t` is bit `t % 32` of word `t / 32`. The logits of those that are not in it count as minus
/// infinity, but one that is no number or plus infinity still spoils its row. Cloning it clones a pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask(Arc<[u32]>);

/// What becomes of one token's logit: `bias` is added; then it is divided by `repetition` where it is above 0, and
/// multiplied where it is not; then `minus` is taken away. Infinite, that forbids the token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edit {
    /// Which token.
    pub token: u32,
    /// Added first.
    pub bias: f32,
    /// Away from likely, whatever the sign (Keskar et al., CTRL, 2019); 1 does nothing.
    pub repetition: f32,
    /// Taken away last.
    pub minus: f32,
}

/// The greatest logit. Nothing where a row is unusable: not-a-number, plus infinity, or nothing above minus infinity.
pub fn greatest(logits: &[f32]) -> Option<f32> {
    let mut max = f32::NEG_INFINITY;
    let mut nan = false;
    for logit in logits {
        nan |= logit.is_nan();
        max = max.max(*logit);
    }
    (!nan && max.is_finite()).then_some(max)
}

/// Likelier first; of equals, the lower id.
pub fn by_rank(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Below this, a temperature is zero: dividing by it would overflow.
pub(super) const GREEDY: f32 = 1e-5;

/// The weight of the likeliest, in units. A vocabulary of 2^23 such weights is still counted without a loss.
pub(super) const UNIT: f32 = (1_u64 << 40) as f32;

impl TokenMask {
    /// The set of these words. Tokens beyond them are not in it.
    pub fn new(words: impl Into<Arc<[u32]>>) -> Self {
        Self(words.into())
    }

    /// The set of these tokens, all below `vocab`.
    pub fn of(tokens: impl IntoIterator<Item = u32>, vocab: usize) -> Self {
        let mut words = vec![0; vocab.div_ceil(32)];
        for token in tokens {
            words[token as usize / 32] |= 1 << (token % 32);
        }
        Self::new(words)
    }

    /// Whether it holds a token.
    pub fn holds(&self, token: u32) -> bool {
        self.0.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
    }

    /// Whether it holds a token beside these.
    pub fn holds_others_than(&self, tokens: &[u32]) -> bool {
        let others = |(i, word): (usize, &u32)| {
            let taken = tokens.iter().filter(|token| **token as usize / 32 == i);
            word & !taken.fold(0, |bits, token| bits | 1 << (token % 32)) != 0
        };
        self.0.iter().enumerate().filter(|(_, word)| **word != 0).any(others)
    }

    /// As many words as a vocabulary needs: tokens beyond those that it has are not in it.
    pub(super) fn words(&self, vocab: usize) -> impl Iterator<Item = u32> {
        self.0.iter().copied().chain(std::iter::repeat(0)).take(vocab.div_ceil(32))
    }

    /// Forbids all tokens of a row that it does not hold.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        for (word, logits) in self.words(logits.len()).zip(logits.chunks_mut(32)) {
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

impl Edit {
    /// An edit that does nothing.
    pub const fn none(token: u32) -> Self {
        Self { token, bias: 0.0, repetition: 1.0, minus: 0.0 }
    }

    /// The logit after the edit. One that grows past the floats stays the greatest, and a number.
    pub(super) fn of(&self, logit: f32) -> f32 {
        let logit = logit + self.bias;
        let logit = if logit > 0.0 { logit / self.repetition } else { logit * self.repetition };
        (logit - self.minus).min(f32::MAX)
    }
}
