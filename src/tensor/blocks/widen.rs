//! Blocks as `f32`: what every other reader of a format is held to.

use half::f16;

use super::packed::{signed_scales, sub_scales};
use super::{BlockFormat, LARGE, SMALL};

impl BlockFormat {
    /// Reads whole blocks.
    pub(in crate::tensor) fn widen_into(self, bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.chunks_exact(self.bytes()).zip(out.chunks_exact_mut(self.values())) {
            match self {
                Self::Q4_0 => nibbles(half_at(block, 0), 8, 0.0, &block[2..], None, out),
                Self::Q4_1 => nibbles(half_at(block, 0), 0, half_at(block, 2), &block[4..], None, out),
                Self::Q5_0 => nibbles(half_at(block, 0), 16, 0.0, &block[6..], Some(&block[2..6]), out),
                Self::Q5_1 => {
                    nibbles(half_at(block, 0), 0, half_at(block, 2), &block[8..], Some(&block[4..8]), out);
                }
                Self::Q8_0 => {
                    let d = half_at(block, 0);
                    out.iter_mut().zip(&block[2..]).for_each(|(out, q)| *out = d * f32::from(*q as i8));
                }
                Self::Q2K => q2_k(block, out),
                Self::Q3K => q3_k(block, out),
                Self::Q4K => q4_or_5_k(block, &block[16..], None, out),
                Self::Q5K => q4_or_5_k(block, &block[48..], Some(&block[16..48]), out),
                Self::Q6K => q6_k(block, out),
            }
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// `d (q - less) + m`: the first half of a small block in the lower halves of sixteen bytes, the second in the upper. Bit
/// `i` of `fifth` is number `i`'s.
fn nibbles(d: f32, less: i32, m: f32, quants: &[u8], fifth: Option<&[u8]>, out: &mut [f32]) {
    let fifth = fifth.map_or(0, |bits| u32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]]));
    for (i, out) in out.iter_mut().enumerate() {
        let low = quants[i % 16] >> (4 * (i / 16)) & 15;
        let q = i32::from(low) | ((fifth >> i & 1) << 4) as i32;
        *out = d.mul_add((q - less) as f32, m);
    }
}

/// Where number `i` of a large block of 2-bit pieces lies: 32 bytes hold 128 numbers, one of each quarter a byte.
const fn quarter(i: usize) -> (usize, usize) {
    let (half, i) = (i / 128, i % 128);
    (32 * half + i % 32, 2 * (i / 32))
}

fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, m) = (half_at(block, 80), half_at(block, 82));
    for (i, out) in out.iter_mut().enumerate() {
        let (byte, shift) = quarter(i);
        let q = quants[byte] >> shift & 3;
        let scale = scales[i / 16];
        *out = d * f32::from(scale & 15) * f32::from(q) - m * f32::from(scale >> 4);
    }
}

fn q3_k(block: &[u8], out: &mut [f32]) {
    let (thirds, quants) = (&block[..32], &block[32..96]);
    let mut packed = [0; 12];
    packed.copy_from_slice(&block[96..108]);
    let (scales, d) = (signed_scales(&packed), half_at(block, 108));
    for (i, out) in out.iter_mut().enumerate() {
        let (byte, shift) = quarter(i);
        let q = quants[byte] >> shift & 3;
        // the third bit says that 4 is not to be taken away
        let less = if thirds[i % 32] >> (i / 32) & 1 == 1 { 0 } else { 4 };
        *out = d * f32::from(scales[i / 16]) * (f32::from(q) - f32::from(less as u8));
    }
}

/// 32 bytes hold 64 numbers: the first 32 in their lower halves. Bit `j` of byte `i` of `fifth` is that of number `i` of
/// sub-block `j`.
fn q4_or_5_k(block: &[u8], quants: &[u8], fifth: Option<&[u8]>, out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let mut packed = [0; 12];
    packed.copy_from_slice(&block[4..16]);
    let (scales, minima) = sub_scales(&packed);
    for (j, out) in out.chunks_exact_mut(SMALL).enumerate() {
        let (scale, minimum) = (d * f32::from(scales[j]), m * f32::from(minima[j]));
        for (i, out) in out.iter_mut().enumerate() {
            let low = quants[32 * (j / 2) + i] >> (4 * (j % 2)) & 15;
            let high = fifth.map_or(0, |bits| bits[i] >> j & 1);
            *out = scale * f32::from(low | high << 4) - minimum;
        }
    }
}

fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half_at(block, 208));
    for (i, out) in out.iter_mut().take(LARGE).enumerate() {
        let (half, j) = (i / 128, i % 128);
        let bits = low[64 * half + j % 64] >> (4 * (j / 64)) & 15;
        let (byte, shift) = quarter(i);
        let q = bits | (high[byte] >> shift & 3) << 4;
        *out = d * f32::from(scales[i / 16] as i8) * (f32::from(q) - 32.0);
    }
}
