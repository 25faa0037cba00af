//! The formats of large blocks. Layouts: see `tensor::blocks`.

#![allow(unsafe_code)]
#![allow(clippy::inline_always)]

use super::dots::Dots;
use super::tile::{Factors, Large};
use crate::tensor::blocks::{BlockFormat, sub_scales};

pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;

// SAFETY of each block below: a block lies at `p`

/// Of the formats whose sub-blocks have a scale and a minimum of 6 bits each.
#[inline(always)]
unsafe fn six_bit_factors<D: Dots>(p: *const u8) -> Factors<D> {
    unsafe {
        let (scales, minima) = sub_scales(&p.add(4).cast::<[u8; 12]>().read_unaligned());
        let [scales, minima] = [scales, minima].map(u64::from_le_bytes);
        // a sub-block of 32 has two sums of 16
        Factors { d: D::half(p), each: D::twice(scales), m: D::half(p.add(2)), less: D::twice(minima) }
    }
}

impl Large for Q4K {
    const BYTES: usize = BlockFormat::Q4K.bytes();
    const GROUP: usize = 32;
    #[inline(always)]
    unsafe fn factors<D: Dots>(p: *const u8) -> Factors<D> {
        unsafe { six_bit_factors(p) }
    }
    #[inline(always)]
    unsafe fn quants<D: Dots>(p: *const u8, half: usize) -> [D::Bytes; 4] {
        unsafe {
            let (a, b) = (D::bytes(p.add(16 + 64 * half)), D::bytes(p.add(48 + 64 * half)));
            [D::low(a), D::high(a), D::low(b), D::high(b)]
        }
    }
}

impl Large for Q5K {
    const BYTES: usize = BlockFormat::Q5K.bytes();
    const GROUP: usize = 32;
    #[inline(always)]
    unsafe fn factors<D: Dots>(p: *const u8) -> Factors<D> {
        unsafe { six_bit_factors(p) }
    }
    #[inline(always)]
    unsafe fn quants<D: Dots>(p: *const u8, half: usize) -> [D::Bytes; 4] {
        unsafe {
            let (a, b) = (D::bytes(p.add(48 + 64 * half)), D::bytes(p.add(80 + 64 * half)));
            let fifth = D::bytes(p.add(16));
            let first = 1 << (4 * half);
            [
                D::or(D::low(a), D::sixteen_where(fifth, first)),
                D::or(D::high(a), D::sixteen_where(fifth, first << 1)),
                D::or(D::low(b), D::sixteen_where(fifth, first << 2)),
                D::or(D::high(b), D::sixteen_where(fifth, first << 3)),
            ]
        }
    }
}

impl Large for Q6K {
    const BYTES: usize = BlockFormat::Q6K.bytes();
    const GROUP: usize = 16;
    #[inline(always)]
    unsafe fn factors<D: Dots>(p: *const u8) -> Factors<D> {
        unsafe {
            let scales = D::signed(p.add(192));
            let d = D::half(p.add(208));
            // every quant is 32 less than it is stored
            Factors { d, each: scales, m: 32.0 * d, less: scales }
        }
    }
    #[inline(always)]
    unsafe fn quants<D: Dots>(p: *const u8, half: usize) -> [D::Bytes; 4] {
        unsafe {
            let (a, b) = (D::bytes(p.add(64 * half)), D::bytes(p.add(64 * half + 32)));
            let upper = D::bytes(p.add(128 + 32 * half));
            [
                D::or(D::low(a), D::pair::<0>(upper)),
                D::or(D::low(b), D::pair::<1>(upper)),
                D::or(D::high(a), D::pair::<2>(upper)),
                D::or(D::high(b), D::pair::<3>(upper)),
            ]
        }
    }
}
