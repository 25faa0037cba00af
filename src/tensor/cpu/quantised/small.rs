//! The formats of small blocks. Layouts: see `tensor::blocks`.

#![allow(unsafe_code)]
#![allow(clippy::inline_always)]

use super::dots::Dots;
use super::tile::Small;
use crate::tensor::blocks::BlockFormat;

pub(super) struct Q4_0;
pub(super) struct Q5_0;
pub(super) struct Q8_0;

// SAFETY of each block below: a block lies at `p`

impl Small for Q4_0 {
    const BYTES: usize = BlockFormat::Q4_0.bytes();
    #[inline(always)]
    unsafe fn quants<D: Dots>(p: *const u8) -> D::Bytes {
        unsafe { D::minus(D::halves(p.add(2)), 8) }
    }
}

impl Small for Q5_0 {
    const BYTES: usize = BlockFormat::Q5_0.bytes();
    #[inline(always)]
    unsafe fn quants<D: Dots>(p: *const u8) -> D::Bytes {
        unsafe {
            let fifth = u32::from_le(p.add(2).cast::<u32>().read_unaligned());
            D::minus(D::or(D::halves(p.add(6)), D::sixteens(fifth)), 16)
        }
    }
}

impl Small for Q8_0 {
    const BYTES: usize = BlockFormat::Q8_0.bytes();
    #[inline(always)]
    unsafe fn quants<D: Dots>(p: *const u8) -> D::Bytes {
        unsafe { D::bytes(p.add(2)) }
    }
}
