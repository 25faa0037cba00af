//! How fast the host's memory is read.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

/// Far more than any processor caches.
const BYTES: usize = 1 << 30;
const ROUNDS: usize = 5;
/// What one task reads at a time.
const PART: usize = 1 << 18;

/// Bytes a second that all threads read together: the best of a few rounds, as others only ever take from it. Weights are
/// only read, so nothing is written here.
pub(in crate::tensor) fn memory_bandwidth() -> f64 {
    let words = vec![1_u64; BYTES / size_of::<u64>()];
    let round = || {
        let begun = Instant::now();
        let sum: u64 = words.par_chunks(PART).map(|part| part.iter().fold(0, |sum, word| sum ^ word)).sum();
        black_box(sum);
        BYTES as f64 / begun.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(|_| round()).fold(0.0, f64::max)
}
