//! Instruction sets: which one runs is decided once, at run time.
//!
//! A kernel is written once over [`Isa`], always inlined, and compiled once a set behind a `#[target_feature]`
//! wrapper. A closure would not inherit the wrapper's features, so kernels hold none.

#![allow(unsafe_code)]

use std::sync::OnceLock;

/// An instruction set that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tensor) enum Level {
    /// The same with AVX-512 BW and VNNI, which add up products of bytes.
    Vnni,
    /// x86-64 with AVX-512 F and VL: 16 lanes.
    Avx512,
    /// x86-64 with AVX2, FMA and F16C: 8 lanes.
    Avx2,
    /// Any processor: 8 lanes in plain Rust.
    Portable,
}

impl Level {
    /// What this processor can run, the best first; never empty.
    pub(in crate::tensor) fn available() -> &'static [Self] {
        static LEVELS: OnceLock<Vec<Level>> = OnceLock::new();
        LEVELS.get_or_init(|| {
            let mut levels = Vec::new();
            #[cfg(target_arch = "x86_64")]
            {
                let avx2 = is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c");
                if avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                    if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni") {
                        levels.push(Self::Vnni);
                    }
                    levels.push(Self::Avx512);
                }
                if avx2 {
                    levels.push(Self::Avx2);
                }
            }
            levels.push(Self::Portable);
            levels
        })
    }

    /// The best that this processor can run.
    pub(in crate::tensor) fn best() -> Self {
        Self::available()[0]
    }
}

/// The lanes of the widest set.
pub(super) const MOST_LANES: usize = 16;

/// The vector operations that a kernel is written in.
///
/// # Safety
/// Every function may run only on a processor that has the set; pointers are read or written over `LANES`
/// elements, at any alignment.
pub(super) trait Isa: Copy {
    /// A vector of `LANES` floats.
    type V: Copy;
    const LANES: usize;
    /// Whether there are registers for a tile of 6 rows by 4 outputs, or only for 4 by 3.
    const MANY_REGISTERS: bool;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn load_bf16(p: *const u8) -> Self::V;
    unsafe fn load_f16(p: *const u8) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// The greater, by lane. Returns `b` if either is `NaN`, so one in `b` survives.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `x * 2^n`, by lane, where the low bits of `n`'s representation are an integer, and no result leaves the
    /// normal numbers.
    unsafe fn scale(x: Self::V, n: Self::V) -> Self::V;
    /// `a * b + c`, by lane.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The sum of the lanes, in one fixed order.
    unsafe fn sum(v: Self::V) -> f32;
}

/// `exp(x)` by lane, to about one unit in the last place; what would be below the normal numbers is about 1e-38.
/// Cephes' way: `2^n` for the whole powers, a polynomial for the rest.
///
/// # Safety
/// The processor has `I`; no lane is above 88.
#[allow(clippy::inline_always)]
#[inline(always)]
pub(super) unsafe fn exp<I: Isa>(x: I::V) -> I::V {
    // adding it rounds to a whole number, which then is the lowest bits
    const ROUND: f32 = 12_582_912.0;
    const POLYNOMIAL: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5];
    // SAFETY: the caller's promise
    unsafe {
        let x = I::max(I::splat(-87.0), x);
        let rounded = I::fma(x, I::splat(std::f32::consts::LOG2_E), I::splat(ROUND));
        let n = I::sub(rounded, I::splat(ROUND));
        // ln 2 in two parts, the first short enough that its product with n is exact
        let r = I::fma(n, I::splat(-0.693_359_4), x);
        let r = I::fma(n, I::splat(2.121_944_4e-4), r);
        let mut p = I::splat(POLYNOMIAL[0]);
        for c in &POLYNOMIAL[1..] {
            p = I::fma(p, r, I::splat(*c));
        }
        let one = I::splat(1.0);
        let p = I::fma(I::fma(p, r, one), r, one);
        I::scale(p, rounded)
    }
}

/// `tanh(x)` by lane, to within 3e-7: `(e - 1) / (e + 1)` for `e = exp(2x)`.
///
/// # Safety
/// The processor has `I`.
#[allow(clippy::inline_always)]
#[inline(always)]
pub(super) unsafe fn tanh<I: Isa>(x: I::V) -> I::V {
    // SAFETY: beyond 40 the exponential would leave the floats, and tanh is 1; the rest is the caller's promise
    unsafe {
        let (zero, one) = (I::splat(0.0), I::splat(1.0));
        let most = I::sub(zero, I::max(I::splat(-40.0), I::sub(zero, x)));
        let e = exp::<I>(I::fma(most, I::splat(2.0), zero));
        I::div(I::sub(e, one), I::fma(e, one, one))
    }
}

/// Work that is compiled for each set.
pub(super) trait Kernel {
    /// # Safety
    /// The processor has the set `I`.
    unsafe fn run<I: Isa>(self);
}

/// Runs a kernel with the set `level`.
///
/// # Panics
/// If the processor does not have it.
pub(super) fn dispatch<K: Kernel>(level: Level, kernel: K) {
    assert!(Level::available().contains(&level), "{level:?} on a processor without it");
    // SAFETY: the processor has the set, checked above
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Vnni | Level::Avx512 => x86::avx512(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86::avx2(kernel),
            _ => kernel.run::<Portable>(),
        }
    }
}

/// Eight lanes in plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Portable;

#[allow(clippy::inline_always)]
impl Isa for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 8] {
        // SAFETY: the caller's promise about `p`
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> [f32; 8] {
        // SAFETY: the caller's promise about `p`
        let bits = unsafe { p.cast::<[[u8; 2]; 8]>().read_unaligned() };
        bits.map(|b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> [f32; 8] {
        // SAFETY: the caller's promise about `p`
        let bits = unsafe { p.cast::<[[u8; 2]; 8]>().read_unaligned() };
        bits.map(|b| half::f16::from_le_bytes(b).to_f32())
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; 8]) {
        // SAFETY: the caller's promise about `p`
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn scale(x: [f32; 8], n: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| f32::from_bits(x[i].to_bits().wrapping_add(n[i].to_bits() << 23)))
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 8], b: [f32; 8], mut c: [f32; 8]) -> [f32; 8] {
        // two roundings: a fused one is a library call where the processor has none
        for i in 0..8 {
            c[i] += a[i] * b[i];
        }
        c
    }
    #[inline(always)]
    unsafe fn sum(v: [f32; 8]) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(clippy::inline_always, clippy::cast_ptr_alignment)]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _mm_loadu_si128, _mm256_add_epi32, _mm256_castps_si256, _mm256_castsi256_ps,
        _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_div_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
        _mm256_loadu_si256, _mm256_max_ps, _mm256_set1_ps, _mm256_slli_epi32, _mm256_storeu_ps,
        _mm256_sub_ps, _mm512_add_epi32, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cvtepu16_epi32,
        _mm512_cvtph_ps, _mm512_div_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_max_ps,
        _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_sub_ps,
    };

    use super::{Isa, Kernel, Portable};

    // without VL, the lower half of a vector that is added up must lie in one of the old 16 registers, and with it
    // every sum of a tile: half of them would be spilled in the inner loop
    #[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
    pub(super) unsafe fn avx512<K: Kernel>(kernel: K) {
        // SAFETY: the caller's promise
        unsafe { kernel.run::<Avx512>() }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn avx2<K: Kernel>(kernel: K) {
        // SAFETY: the caller's promise
        unsafe { kernel.run::<Avx2>() }
    }

    #[derive(Clone, Copy)]
    struct Avx512;

    // SAFETY of each block below: the trait's promise, that the processor has the set and the pointers are good
    impl Isa for Avx512 {
        type V = __m512;
        const LANES: usize = 16;
        const MANY_REGISTERS: bool = true;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u8) -> __m512 {
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u8) -> __m512 {
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m512) {
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn scale(x: __m512, n: __m512) -> __m512 {
            unsafe {
                let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(n));
                _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), n))
            }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn sum(v: __m512) -> f32 {
            unsafe { _mm512_reduce_add_ps(v) }
        }
    }

    #[derive(Clone, Copy)]
    struct Avx2;

    // SAFETY of each block below: the trait's promise, that the processor has the set and the pointers are good
    impl Isa for Avx2 {
        type V = __m256;
        const LANES: usize = 8;
        const MANY_REGISTERS: bool = false;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u8) -> __m256 {
            unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u8) -> __m256 {
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn scale(x: __m256, n: __m256) -> __m256 {
            unsafe {
                let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(n));
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), n))
            }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn sum(v: __m256) -> f32 {
            let mut lanes = [0.0; 8];
            unsafe {
                _mm256_storeu_ps(lanes.as_mut_ptr(), v);
                Portable::sum(lanes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp<'a>(&'a mut [f32]);

    impl Kernel for Exp<'_> {
        unsafe fn run<I: Isa>(self) {
            for chunk in self.0.chunks_exact_mut(I::LANES) {
                // SAFETY: a chunk is a vector
                unsafe { I::store(chunk.as_mut_ptr(), exp::<I>(I::load(chunk.as_ptr()))) };
            }
        }
    }

    #[test]
    fn exp_is_exp() {
        let x: Vec<f32> = (0..16_000).map(|i| i as f32 / 100.0 - 86.9).map(|x| x.min(87.9)).collect();
        for level in Level::available() {
            let mut y = x.clone();
            dispatch(*level, Exp(&mut y));
            for (x, y) in x.iter().zip(&y) {
                let exact = f64::from(*x).exp();
                assert!(
                    (f64::from(*y) / exact - 1.0).abs() < 3e-7,
                    "{level:?}: exp({x}) is {exact}, not {y}"
                );
            }
            let mut edges = [0.0, -1e30, f32::NEG_INFINITY, f32::NAN].repeat(4);
            dispatch(*level, Exp(&mut edges));
            assert_eq!(edges[0].to_bits(), 1.0_f32.to_bits(), "{level:?}");
            assert!(edges[1..3].iter().all(|y| (0.0..2e-38).contains(y)), "{level:?}: {:?}", &edges[1..3]);
            assert!(edges[3].is_nan(), "{level:?}: a broken model must not look sound");
        }
    }
}
