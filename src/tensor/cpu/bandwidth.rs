//! How fast the host's memory is read.

#![allow(unsafe_code)]
#![allow(clippy::inline_always)]

use std::hint::black_box;
use std::time::Instant;

use super::ahead::{AHEAD, fetch_ahead};
use super::isa::{Isa, Kernel, Level, dispatch};
use super::team;

/// Far more than any processor caches.
const BYTES: usize = 1 << 30;
const ROUNDS: usize = 5;
/// Floats that one task reads.
const PART: usize = 1 << 18;
/// Floats between two looks ahead.
const STRETCH: usize = 64;

/// Bytes a second that all threads read together: the best of a few rounds, as others only ever take from it. Weights are
/// only read, so nothing is written here.
pub(in crate::tensor) fn memory_bandwidth() -> f64 {
    let floats = vec![1.0_f32; BYTES / size_of::<f32>()];
    let level = Level::best();
    let round = || {
        let begun = Instant::now();
        team::consume(floats.chunks_exact(PART).collect(), |part| dispatch(level, Read(part)));
        BYTES as f64 / begun.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(|_| round()).fold(0.0, f64::max)
}

struct Read<'a>(&'a [f32]);

impl Kernel for Read<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        for stretch in self.0.as_chunks::<STRETCH>().0 {
            let stretch = stretch.as_ptr();
            // SAFETY: the processor has `I`, and a stretch holds what is loaded
            unsafe {
                fetch_ahead(stretch.wrapping_byte_add(AHEAD).cast(), STRETCH * size_of::<f32>());
                let mut sum = I::splat(0.0);
                for at in (0..STRETCH).step_by(I::LANES) {
                    sum = I::max(I::load(stretch.add(at)), sum);
                }
                black_box(sum);
            }
        }
    }
}
