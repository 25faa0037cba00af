//! Several rows by sixteen outputs at a time, with AVX-512 VNNI.
//!
//! The quants of sixteen outputs are unpacked and laid beside each other once (a panel), four of each in a register, so
//! that one operation multiplies four activations, the same for all lanes, with four quants of each of sixteen outputs.
//! A lane then is an output, and nothing is added up across lanes. Unpacking costs what two rows (Zen 4) or three (Emerald
//! Rapids) do by tiles.
//!
//! Sums are those of [`tile`](super::tile), in the same order.

#![allow(unsafe_code)]
#![allow(clippy::inline_always, clippy::cast_ptr_alignment)]

use std::arch::x86_64::{
    __m512, __m512i, _mm_loadu_si128, _mm256_loadu_si256, _mm256_set1_epi8, _mm256_store_si256,
    _mm256_storeu_si256, _mm256_xor_si256, _mm512_add_epi32, _mm512_add_ps, _mm512_castsi128_si512,
    _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_dpbusd_epi32, _mm512_dpwssd_epi32, _mm512_fmadd_ps,
    _mm512_inserti32x4, _mm512_load_ps, _mm512_load_si512, _mm512_mul_ps, _mm512_mullo_epi32,
    _mm512_set1_epi16, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_store_ps, _mm512_store_si512, _mm512_storeu_ps, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use super::super::ahead::fetch_ahead;
use super::activations::SUMMED;
use super::dots::Vnni;
use super::tile::{EIGHT, Factors, Large, Product, Small};
use crate::tensor::blocks::{LARGE, SMALL};

/// Outputs of a panel.
pub(super) const OUTS: usize = 16;
/// Rows from which on unpacking a panel is worth it.
pub(super) const WORTH_UNPACKING: usize = 3;

/// A number for each output of a panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Lanes([i32; OUTS]);

impl Lanes {
    const NONE: Self = Self([0; OUTS]);
}

/// Quants of sixteen rows as they are unpacked.
#[repr(C, align(64))]
struct Rows<const WIDTH: usize>([[u8; WIDTH]; OUTS]);

/// What a panel is unpacked into; it stays in the L2 cache for all rows.
#[derive(Default)]
pub(super) struct Panel {
    quants: Vec<Lanes>,
    /// Of small blocks, the scale; of large ones, what [`Large`] has, in the order of [`factor_lanes`].
    factors: Vec<Lanes>,
}

thread_local! {
    static PANEL: RefCell<Panel> = RefCell::default();
}

/// What is added to quants of small blocks so that none is below 0.
const SHIFT: i16 = 128;

/// Blocks of one kind in panels.
pub(super) trait Blocks {
    /// Unpacks the panel of the outputs from `out` on.
    ///
    /// # Safety
    /// As [`compute`], and there are so many outputs.
    unsafe fn unpack(product: &Product<'_>, out: usize, panel: &mut Panel);
    /// Computes rows `row` to `row + R` of that panel; gives `R`.
    ///
    /// # Safety
    /// As [`compute`], and there are so many rows and outputs.
    unsafe fn tile<const R: usize>(product: &Product<'_>, row: usize, out: usize, panel: &Panel) -> usize;
}

pub(super) struct OfSmall<F>(PhantomData<F>);
pub(super) struct OfLarge<F>(PhantomData<F>);

/// Computes as many of the outputs as make whole panels, of every row; gives the others.
///
/// # Safety
/// As [`Product::small`], with a processor that has [`Vnni`].
pub(super) unsafe fn compute<B: Blocks>(product: &Product<'_>, outs: Range<usize>) -> Range<usize> {
    let rest = outs.end - outs.len() % OUTS..outs.end;
    PANEL.with_borrow_mut(|panel| {
        for out in (outs.start..rest.start).step_by(OUTS) {
            // SAFETY: the caller's promise; the panel's outputs exist
            unsafe { one_panel::<B>(product, out, panel) };
        }
    });
    rest
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn one_panel<B: Blocks>(product: &Product<'_>, out: usize, panel: &mut Panel) {
    let rows = product.x.rows;
    // SAFETY: rows and outputs stay below what there is
    unsafe {
        B::unpack(product, out, panel);
        let mut row = 0;
        while row < rows {
            row += match rows - row {
                1 => B::tile::<1>(product, row, out, panel),
                2 | 3 => B::tile::<2>(product, row, out, panel),
                4..8 => B::tile::<4>(product, row, out, panel),
                _ => B::tile::<8>(product, row, out, panel),
            };
        }
    }
}

/// Where `R` rows of activations lie: four quants to a number, and two sums.
struct Inputs<const R: usize> {
    quants: [*const i32; R],
    scales: [*const f32; R],
    sums: [*const i32; R],
}

impl<const R: usize> Inputs<R> {
    #[inline(always)]
    fn of(product: &Product<'_>, row: usize) -> Self {
        Self {
            quants: std::array::from_fn(|r| product.x.quants(row + r).cast()),
            scales: std::array::from_fn(|r| product.x.scales(row + r)),
            sums: std::array::from_fn(|r| product.x.sums(row + r).cast()),
        }
    }
}

/// Four bytes of each of sixteen rows that lie `stride` bytes apart, then the next four, until there are sixteen.
#[inline(always)]
unsafe fn across(rows: *const u8, stride: usize, to: *mut Lanes) {
    // SAFETY: the caller's promise: sixteen bytes of sixteen rows, and room for four times as many lanes
    unsafe {
        let mut four = [_mm512_setzero_si512(); 4];
        for (i, lanes) in four.iter_mut().enumerate() {
            let row = rows.add(i * stride);
            let first = _mm512_castsi128_si512(_mm_loadu_si128(row.cast()));
            let second = _mm512_inserti32x4::<1>(first, _mm_loadu_si128(row.add(4 * stride).cast()));
            let third = _mm512_inserti32x4::<2>(second, _mm_loadu_si128(row.add(8 * stride).cast()));
            *lanes = _mm512_inserti32x4::<3>(third, _mm_loadu_si128(row.add(12 * stride).cast()));
        }
        let [a, b, c, d] = four;
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (later_ab, later_cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        _mm512_store_si512(to.cast(), _mm512_unpacklo_epi64(ab, cd));
        _mm512_store_si512(to.add(1).cast(), _mm512_unpackhi_epi64(ab, cd));
        _mm512_store_si512(to.add(2).cast(), _mm512_unpacklo_epi64(later_ab, later_cd));
        _mm512_store_si512(to.add(3).cast(), _mm512_unpackhi_epi64(later_ab, later_cd));
    }
}

#[inline(always)]
unsafe fn added<const R: usize>(mut a: [__m512; R], b: [__m512; R]) -> [__m512; R] {
    for (a, b) in a.iter_mut().zip(b) {
        // SAFETY: the caller's promise, that the processor has the set
        *a = unsafe { _mm512_add_ps(*a, b) };
    }
    a
}

#[inline(always)]
unsafe fn load_eight(from: *const Lanes) -> [__m512i; 8] {
    // SAFETY: the caller's promise: eight times the lanes
    unsafe {
        let mut eight = [_mm512_setzero_si512(); 8];
        for (i, lanes) in eight.iter_mut().enumerate() {
            *lanes = _mm512_load_si512(from.add(i).cast());
        }
        eight
    }
}

/// Sums of 16 activations, two by two.
const PAIRS: usize = LARGE / SUMMED / 2;

/// Lanes of a large block's factors: scales of its groups, then what is taken away of each pair of sums, then the two that
/// are of all.
const fn factor_lanes<F: Large>() -> usize {
    LARGE / F::GROUP + PAIRS + 2
}

impl<F: Small> Blocks for OfSmall<F> {
    #[inline(always)]
    unsafe fn unpack(product: &Product<'_>, out: usize, panel: &mut Panel) {
        let blocks = product.x.width / SMALL;
        panel.quants.resize(blocks * SMALL / 4, Lanes::NONE);
        panel.factors.resize(blocks, Lanes::NONE);
        let (quants, scales) = (panel.quants.as_mut_ptr(), panel.factors.as_mut_ptr());
        let mut rows = Rows([[0; SMALL]; OUTS]);
        let mut halves = [0_u16; OUTS];
        // SAFETY: the outputs have these blocks, and the panel room for them
        unsafe {
            let shift = _mm256_set1_epi8(SHIFT as i8);
            for block in 0..blocks {
                for (o, row) in rows.0.iter_mut().enumerate() {
                    let w = product.weights.add((out + o) * product.stride + block * F::BYTES);
                    fetch_ahead(w.wrapping_add(OUTS * product.stride), 1);
                    halves[o] = w.cast::<u16>().read_unaligned();
                    _mm256_store_si256(
                        row.as_mut_ptr().cast(),
                        _mm256_xor_si256(F::quants::<Vnni>(w), shift),
                    );
                }
                for half in 0..2 {
                    across(
                        rows.0.as_ptr().cast::<u8>().add(16 * half),
                        SMALL,
                        quants.add(8 * block + 4 * half),
                    );
                }
                let scale = _mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast()));
                _mm512_store_ps(scales.add(block).cast(), scale);
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<const R: usize>(product: &Product<'_>, row: usize, out: usize, panel: &Panel) -> usize {
        let blocks = panel.factors.len();
        // SAFETY: `row + R` rows and the panel's outputs exist, each of `blocks` blocks
        unsafe {
            let Inputs { quants, scales, sums: summed } = Inputs::<R>::of(product, row);
            let unshift = _mm512_set1_epi16(-SHIFT);
            let mut eight = [[_mm512_setzero_ps(); R]; EIGHT];
            for (first, sums) in eight.iter_mut().enumerate() {
                let mut block = first;
                while block < blocks {
                    let w = load_eight(panel.quants.as_ptr().add(8 * block));
                    let scale = _mm512_load_ps(panel.factors.as_ptr().add(block).cast());
                    for r in 0..R {
                        let sum = _mm512_set1_epi32(summed[r].add(block).read_unaligned());
                        let mut ints = _mm512_dpwssd_epi32(_mm512_setzero_si512(), sum, unshift);
                        for (i, w) in w.into_iter().enumerate() {
                            let x = _mm512_set1_epi32(quants[r].add(8 * block + i).read_unaligned());
                            ints = _mm512_dpbusd_epi32(ints, w, x);
                        }
                        let both = _mm512_mul_ps(scale, _mm512_set1_ps(*scales[r].add(block)));
                        sums[r] = _mm512_fmadd_ps(both, _mm512_cvtepi32_ps(ints), sums[r]);
                    }
                    block += EIGHT;
                }
            }
            let [a, b, c, d, e, f, g, h] = eight;
            let even = added(added(a, e), added(c, g));
            let odd = added(added(b, f), added(d, h));
            for (r, sum) in added(even, odd).into_iter().enumerate() {
                _mm512_storeu_ps(product.y.add((row + r) * product.outs + out), sum);
            }
        }
        R
    }
}

impl<F: Large> Blocks for OfLarge<F> {
    #[inline(always)]
    unsafe fn unpack(product: &Product<'_>, out: usize, panel: &mut Panel) {
        let blocks = product.x.width / LARGE;
        panel.quants.resize(blocks * LARGE / 4, Lanes::NONE);
        panel.factors.resize(blocks * factor_lanes::<F>(), Lanes::NONE);
        let quants = panel.quants.as_mut_ptr();
        let mut rows = Rows([[0; LARGE]; OUTS]);
        let groups = LARGE / F::GROUP;
        for (block, lanes) in panel.factors.chunks_exact_mut(factor_lanes::<F>()).enumerate() {
            // SAFETY: the outputs have this block, and the panel room for it
            unsafe {
                for (o, row) in rows.0.iter_mut().enumerate() {
                    let w = product.weights.add((out + o) * product.stride + block * F::BYTES);
                    fetch_ahead(w.wrapping_add(OUTS * product.stride), F::BYTES);
                    let Factors { d, each, m, less } = F::factors::<Vnni>(w);
                    let (mut scales, mut taken) = ([0_i16; 16], [0_i32; PAIRS]);
                    _mm256_storeu_si256(scales.as_mut_ptr().cast(), each);
                    _mm256_storeu_si256(taken.as_mut_ptr().cast(), less);
                    for (group, lanes) in lanes[..groups].iter_mut().enumerate() {
                        lanes.0[o] = i32::from(scales[group * F::GROUP / SUMMED]);
                    }
                    for (lanes, pair) in lanes[groups..].iter_mut().zip(taken) {
                        lanes.0[o] = pair;
                    }
                    for (lanes, factor) in lanes[groups + PAIRS..].iter_mut().zip([d, -m]) {
                        lanes.0[o] = factor.to_bits() as i32;
                    }
                    for half in 0..2 {
                        for (i, quants) in F::quants::<Vnni>(w, half).into_iter().enumerate() {
                            _mm256_store_si256(row.as_mut_ptr().add(128 * half + 32 * i).cast(), quants);
                        }
                    }
                }
                for i in 0..LARGE / 16 {
                    let to = quants.add(block * LARGE / 4 + 4 * i);
                    across(rows.0.as_ptr().cast::<u8>().add(16 * i), LARGE, to);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<const R: usize>(product: &Product<'_>, row: usize, out: usize, panel: &Panel) -> usize {
        let groups = LARGE / F::GROUP;
        // SAFETY: `row + R` rows and the panel's outputs exist, each of these blocks
        unsafe {
            let Inputs { quants, scales, sums: summed } = Inputs::<R>::of(product, row);
            let mut sums = [_mm512_setzero_ps(); R];
            for (block, factors) in panel.factors.chunks_exact(factor_lanes::<F>()).enumerate() {
                let factors = factors.as_ptr();
                let mut ints = [_mm512_setzero_si512(); R];
                for group in 0..groups {
                    let place = (block * LARGE + group * F::GROUP) / 4;
                    let each = _mm512_load_si512(factors.add(group).cast());
                    let mut own = [_mm512_setzero_si512(); R];
                    for i in 0..F::GROUP / 4 {
                        let w = _mm512_load_si512(panel.quants.as_ptr().add(place + i).cast());
                        for r in 0..R {
                            let x = _mm512_set1_epi32(quants[r].add(place + i).read_unaligned());
                            own[r] = _mm512_dpbusd_epi32(own[r], w, x);
                        }
                    }
                    for r in 0..R {
                        ints[r] = _mm512_add_epi32(ints[r], _mm512_mullo_epi32(own[r], each));
                    }
                }
                let d = _mm512_load_ps(factors.add(groups + PAIRS).cast());
                let minus_m = _mm512_load_ps(factors.add(groups + PAIRS + 1).cast());
                for r in 0..R {
                    let mut taken = _mm512_setzero_si512();
                    for pair in 0..PAIRS {
                        let less = _mm512_load_si512(factors.add(groups + pair).cast());
                        let two = _mm512_set1_epi32(summed[r].add(PAIRS * block + pair).read_unaligned());
                        taken = _mm512_dpwssd_epi32(taken, two, less);
                    }
                    let scale = _mm512_set1_ps(*scales[r].add(block));
                    sums[r] = _mm512_fmadd_ps(_mm512_mul_ps(d, scale), _mm512_cvtepi32_ps(ints[r]), sums[r]);
                    sums[r] =
                        _mm512_fmadd_ps(_mm512_mul_ps(minus_m, scale), _mm512_cvtepi32_ps(taken), sums[r]);
                }
            }
            for (r, sum) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(product.y.add((row + r) * product.outs + out), sum);
            }
        }
        R
    }
}
