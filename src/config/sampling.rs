//! The ranges of sampling parameters, said once for all who may set them: a client in a request, an author in a
//! prompt file.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;

/// 0 is greedy.
pub const TEMPERATURE: RangeInclusive<f64> = 0.0..=2.0;
/// Nucleus sampling; 0 itself is refused.
pub const TOP_P: RangeInclusive<f64> = 0.0..=1.0;
/// Least probability, relative to the likeliest token's.
pub const MIN_P: RangeInclusive<f64> = 0.0..=1.0;
/// Logits are divided by it, and must stay numbers.
pub const REPETITION_PENALTY: RangeInclusive<f64> = 0.01..=10.0;
/// Of presence and of frequency.
pub const PENALTY: RangeInclusive<f64> = -2.0..=2.0;
/// From -1, which means all tokens, as 0 does.
pub const TOP_K: RangeInclusive<i64> = -1..=u32::MAX as i64;
/// The most stop texts; OpenAI takes 4, vLLM any number.
pub const MAX_STOPS: usize = 16;
/// The longest stop text in bytes: while one may still match, its text is held back.
pub const MAX_STOP_BYTES: usize = 1024;

/// How many of the likeliest tokens are sampled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopK {
    /// All of them.
    All,
    /// This many.
    Best(NonZeroU32),
}

impl TopK {
    /// As it is written in a request or a prompt file, where it is in [`TOP_K`].
    pub fn written(k: i64) -> Self {
        u32::try_from(k).ok().and_then(NonZeroU32::new).map_or(Self::All, Self::Best)
    }
}
