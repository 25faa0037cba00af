//! Rows of `f32` rounded to 8 bits.

#![allow(unsafe_code)]

use super::super::isa::{Isa, Kernel, Level, dispatch};
use super::super::team;
use crate::tensor::blocks::{LARGE, SMALL};

/// Numbers below which a second thread costs more than it brings.
const WORTH_A_THREAD: usize = 1 << 15;
/// Numbers of which [`Activations::sums`] has one sum.
pub(super) const SUMMED: usize = 16;

/// Rows `[rows, width]`, about `scale * quant`, with a scale for each group of a row.
pub(super) struct Activations {
    pub(super) rows: usize,
    pub(super) width: usize,
    /// Numbers of a group.
    group: usize,
    /// `[rows, width]`, -127 to 127.
    quants: Vec<i8>,
    /// `[rows, width / group]`; not-a-number for a group that holds a number that is not finite, so that a broken model
    /// does not look sound.
    scales: Vec<f32>,
    /// `[rows, width / 16]`: sums of quants.
    sums: Vec<i16>,
}

impl Activations {
    /// Rounds rows whose width is a whole number of groups.
    pub(super) fn of(level: Level, x: &[f32], width: usize, group: usize) -> Self {
        let rows = x.len() / width;
        let mut quants = vec![0; x.len()];
        let mut scales = vec![0.0; x.len() / group];
        let mut sums = vec![0; x.len() / SUMMED];
        // a whole number of rows
        let part = (WORTH_A_THREAD / width).max(1) * width;
        let outputs =
            quants.chunks_mut(part).zip(scales.chunks_mut(part / group)).zip(sums.chunks_mut(part / SUMMED));
        let parts = x.chunks(part).zip(outputs).collect();
        team::consume(parts, |(x, ((quants, scales), sums))| {
            dispatch(level, Round { group, x, quants, scales, sums });
        });
        Self { rows, width, group, quants, scales, sums }
    }

    pub(super) fn quants(&self, row: usize) -> *const u8 {
        self.quants[row * self.width..].as_ptr().cast()
    }

    pub(super) fn scales(&self, row: usize) -> *const f32 {
        self.scales[row * (self.width / self.group)..].as_ptr()
    }

    pub(super) fn sums(&self, row: usize) -> *const i16 {
        self.sums[row * (self.width / SUMMED)..].as_ptr()
    }
}

/// Some whole rows.
struct Round<'a> {
    group: usize,
    x: &'a [f32],
    quants: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [i16],
}

impl Kernel for Round<'_> {
    // plain loops: the compiler vectorises them for the set that it compiles this for
    #[allow(clippy::inline_always)]
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { group, x, quants, scales, sums } = self;
        match group {
            SMALL => round::<SMALL>(x, quants, scales),
            _ => round::<LARGE>(x, quants, scales),
        }
        for (sum, quants) in sums.iter_mut().zip(quants.as_chunks::<SUMMED>().0) {
            *sum = quants.iter().map(|q| i16::from(*q)).sum();
        }
    }
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn round<const GROUP: usize>(x: &[f32], quants: &mut [i8], scales: &mut [f32]) {
    // adding it rounds to a whole number, whose lowest bits are those of the sum
    const ROUND: f32 = 12_582_912.0;
    let groups = x.as_chunks::<GROUP>().0.iter().zip(quants.as_chunks_mut::<GROUP>().0).zip(scales);
    for ((x, quants), scale) in groups {
        let mut bits = [0_u32; 8];
        for eight in x.as_chunks::<8>().0 {
            for (most, x) in bits.iter_mut().zip(eight) {
                // the bits of numbers above 0 are in their order, and what is not finite comes last
                *most = (*most).max(x.to_bits() & 0x7fff_ffff);
            }
        }
        let greatest = f32::from_bits(bits.into_iter().fold(0, u32::max));
        *scale = if greatest.is_finite() { greatest / 127.0 } else { f32::NAN };
        let inverse = if greatest > 0.0 && greatest.is_finite() { 127.0 / greatest } else { 0.0 };
        for (q, x) in quants.iter_mut().zip(x) {
            *q = (x * inverse + ROUND).to_bits() as i8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::reference::noise;

    #[test]
    fn what_is_rounded_is_near_and_sums_are_sums() {
        for level in Level::available() {
            for group in [SMALL, LARGE] {
                let x: Vec<f32> = noise(3 * 512, 1).into_iter().map(|x| x * 7.0).collect();
                let rounded = Activations::of(*level, &x, 512, group);
                for (i, (x, q)) in x.iter().zip(&rounded.quants).enumerate() {
                    let scale = rounded.scales[i / group];
                    assert!(
                        (x - scale * f32::from(*q)).abs() <= 0.5001 * scale,
                        "{level:?}: {x}, {q} of {scale}"
                    );
                }
                for (sum, quants) in rounded.sums.iter().zip(rounded.quants.chunks(SUMMED)) {
                    assert_eq!(*sum, quants.iter().map(|q| i16::from(*q)).sum::<i16>());
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so_and_zeroes_are_zeroes() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; 64];
            x[40] = bad;
            let rounded = Activations::of(Level::best(), &x, 64, SMALL);
            assert!(rounded.scales[0].is_finite() && rounded.scales[1].is_nan());
        }
        // so small that its inverse would be infinite
        for tiny in [0.0, 1e-40] {
            let rounded = Activations::of(Level::best(), &[tiny; 32], 32, SMALL);
            assert!(rounded.scales[0] < 1e-40 && rounded.quants.iter().all(|q| *q == rounded.quants[0]));
        }
    }
}
