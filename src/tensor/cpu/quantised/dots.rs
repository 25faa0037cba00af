//! Products of whole numbers, 32 at a time: what an instruction set has to offer for quantised weights.

#![allow(unsafe_code)]
#![allow(clippy::inline_always)]

use super::super::isa::Level;

/// The operations that a kernel over blocks is written in. A closure would not inherit the features that a kernel is compiled
/// for, so none may hold one of these. Lane `l` of the eight belongs to bytes `4 l` to `4 l + 3`.
///
/// # Safety
/// Every function may run only on a processor that has the set; pointers are read at any alignment.
pub(super) trait Dots: Copy {
    /// 32 bytes.
    type Bytes: Copy;
    /// 16 numbers of 16 bits.
    type Words: Copy;
    /// 8 numbers of 32 bits.
    type Ints: Copy;
    /// 8 floats.
    type Floats: Copy;
    unsafe fn bytes(p: *const u8) -> Self::Bytes;
    /// The lower halves of 16 bytes, then their upper halves.
    unsafe fn halves(p: *const u8) -> Self::Bytes;
    /// The lower half of each byte.
    unsafe fn low(b: Self::Bytes) -> Self::Bytes;
    /// The upper half of each byte.
    unsafe fn high(b: Self::Bytes) -> Self::Bytes;
    /// 16 for each bit that is set, the lowest first.
    unsafe fn sixteens(bits: u32) -> Self::Bytes;
    /// 16 for each byte that has the one bit of `mask`.
    unsafe fn sixteen_where(b: Self::Bytes, mask: u8) -> Self::Bytes;
    /// Bits `2 K` and `2 K + 1` of each byte, as bits 4 and 5.
    unsafe fn pair<const K: i32>(b: Self::Bytes) -> Self::Bytes;
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    unsafe fn minus(b: Self::Bytes, less: i8) -> Self::Bytes;
    /// Products of numbers from -127 to 127, added up by lane.
    unsafe fn dot(w: Self::Bytes, a: Self::Bytes) -> Self::Ints;
    /// Products of numbers from 0 to 63 with such from -127 to 127, two added up in each place.
    unsafe fn pairs(w: Self::Bytes, a: Self::Bytes) -> Self::Words;
    unsafe fn words(p: *const i16) -> Self::Words;
    /// 16 signed bytes.
    unsafe fn signed(p: *const u8) -> Self::Words;
    /// Eight bytes below 128, the lowest first, each in two places.
    unsafe fn twice(eight: u64) -> Self::Words;
    /// Number `2 J` in the first eight places, number `2 J + 1` in the last.
    unsafe fn pick<const J: usize>(w: Self::Words) -> Self::Words;
    /// Products, two added up by lane, and added to `sum`.
    unsafe fn add_dot_words(sum: Self::Ints, a: Self::Words, b: Self::Words) -> Self::Ints;
    unsafe fn no_bytes() -> Self::Bytes;
    unsafe fn no_ints() -> Self::Ints;
    unsafe fn add(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    unsafe fn no_floats() -> Self::Floats;
    /// The sum of the lanes of each.
    unsafe fn sums(eight: [Self::Ints; 8]) -> Self::Ints;
    /// The sum of the lanes.
    unsafe fn total(a: Self::Ints) -> i32;
    /// `scale * a + b`, by lane.
    unsafe fn scale_add(scales: Self::Floats, a: Self::Ints, b: Self::Floats) -> Self::Floats;
    /// `scale * a + b`, of one number.
    unsafe fn scale_add_one(scale: f32, a: i32, b: f32) -> f32;
    /// The sum of the lanes, in one fixed order.
    unsafe fn sum(v: Self::Floats) -> f32;
    /// A half-precision number.
    unsafe fn half(p: *const u8) -> f32;
    /// Eight half-precision numbers that lie `stride` bytes apart.
    unsafe fn eight_halves(p: *const u8, stride: usize) -> Self::Floats;
    unsafe fn floats(p: *const f32) -> Self::Floats;
    /// By lane.
    unsafe fn times(a: Self::Floats, b: Self::Floats) -> Self::Floats;
}

/// Work that is compiled for each set.
pub(super) trait DotsKernel {
    /// # Safety
    /// The processor has the set `D`.
    unsafe fn run<D: Dots>(self);
}

/// Runs a kernel with what the set `level` has for it.
///
/// # Panics
/// If the processor does not have it.
pub(super) fn dispatch<K: DotsKernel>(level: Level, kernel: K) {
    assert!(Level::available().contains(&level), "{level:?} on a processor without it");
    // SAFETY: the processor has the set, checked above
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Vnni => x86::vnni(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx2 => x86::avx2(kernel),
            _ => kernel.run::<Portable>(),
        }
    }
}

/// Plain Rust.
#[derive(Clone, Copy)]
struct Portable;

// SAFETY of each block below: the trait's promise about pointers
impl Dots for Portable {
    type Bytes = [u8; 32];
    type Words = [i16; 16];
    type Ints = [i32; 8];
    type Floats = [f32; 8];

    unsafe fn bytes(p: *const u8) -> [u8; 32] {
        unsafe { p.cast::<[u8; 32]>().read_unaligned() }
    }
    unsafe fn halves(p: *const u8) -> [u8; 32] {
        let packed = unsafe { p.cast::<[u8; 16]>().read_unaligned() };
        std::array::from_fn(|i| packed[i % 16] >> (4 * (i / 16)) & 15)
    }
    unsafe fn low(b: [u8; 32]) -> [u8; 32] {
        b.map(|b| b & 15)
    }
    unsafe fn high(b: [u8; 32]) -> [u8; 32] {
        b.map(|b| b >> 4)
    }
    unsafe fn sixteens(bits: u32) -> [u8; 32] {
        std::array::from_fn(|i| ((bits >> i & 1) << 4) as u8)
    }
    unsafe fn sixteen_where(b: [u8; 32], mask: u8) -> [u8; 32] {
        b.map(|b| if b & mask == 0 { 0 } else { 16 })
    }
    unsafe fn pair<const K: i32>(b: [u8; 32]) -> [u8; 32] {
        b.map(|b| (b >> (2 * K) & 3) << 4)
    }
    unsafe fn or(a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
        std::array::from_fn(|i| a[i] | b[i])
    }
    unsafe fn minus(b: [u8; 32], less: i8) -> [u8; 32] {
        b.map(|b| (b as i8).wrapping_sub(less) as u8)
    }
    unsafe fn dot(w: [u8; 32], a: [u8; 32]) -> [i32; 8] {
        let product = |i: usize| i32::from(w[i] as i8) * i32::from(a[i] as i8);
        std::array::from_fn(|l| (4 * l..4 * l + 4).map(product).sum())
    }
    unsafe fn pairs(w: [u8; 32], a: [u8; 32]) -> [i16; 16] {
        let product = |i: usize| i16::from(w[i]) * i16::from(a[i] as i8);
        std::array::from_fn(|l| product(2 * l) + product(2 * l + 1))
    }
    unsafe fn words(p: *const i16) -> [i16; 16] {
        unsafe { p.cast::<[i16; 16]>().read_unaligned() }
    }
    unsafe fn signed(p: *const u8) -> [i16; 16] {
        unsafe { p.cast::<[i8; 16]>().read_unaligned() }.map(i16::from)
    }
    unsafe fn twice(eight: u64) -> [i16; 16] {
        let bytes = eight.to_le_bytes();
        std::array::from_fn(|i| i16::from(bytes[i / 2]))
    }
    unsafe fn pick<const J: usize>(w: [i16; 16]) -> [i16; 16] {
        std::array::from_fn(|i| w[2 * J + i / 8])
    }
    unsafe fn add_dot_words(sum: [i32; 8], a: [i16; 16], b: [i16; 16]) -> [i32; 8] {
        let product = |i: usize| i32::from(a[i]) * i32::from(b[i]);
        std::array::from_fn(|l| sum[l] + product(2 * l) + product(2 * l + 1))
    }
    unsafe fn no_bytes() -> [u8; 32] {
        [0; 32]
    }
    unsafe fn no_ints() -> [i32; 8] {
        [0; 8]
    }
    unsafe fn add(a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    unsafe fn no_floats() -> [f32; 8] {
        [0.0; 8]
    }
    unsafe fn sums(eight: [[i32; 8]; 8]) -> [i32; 8] {
        eight.map(|ints| ints.into_iter().sum())
    }
    unsafe fn total(a: [i32; 8]) -> i32 {
        a.into_iter().sum()
    }
    unsafe fn scale_add(scales: [f32; 8], a: [i32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| unsafe { Self::scale_add_one(scales[i], a[i], b[i]) })
    }
    unsafe fn scale_add_one(scale: f32, a: i32, b: f32) -> f32 {
        // two roundings: a fused one is a library call where the processor has none
        #[allow(clippy::suboptimal_flops)]
        let sum = scale * a as f32 + b;
        sum
    }
    unsafe fn sum(v: [f32; 8]) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }
    unsafe fn half(p: *const u8) -> f32 {
        half::f16::from_le_bytes(unsafe { p.cast::<[u8; 2]>().read_unaligned() }).to_f32()
    }
    unsafe fn eight_halves(p: *const u8, stride: usize) -> [f32; 8] {
        std::array::from_fn(|i| unsafe { Self::half(p.add(i * stride)) })
    }
    unsafe fn floats(p: *const f32) -> [f32; 8] {
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    unsafe fn times(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i])
    }
}

/// What [`Level::Vnni`] has.
#[cfg(target_arch = "x86_64")]
pub(super) type Vnni = x86::X86<true>;

#[cfg(target_arch = "x86_64")]
#[allow(clippy::cast_ptr_alignment)]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m256i, _mm_add_epi32, _mm_cvtph_ps, _mm_cvtsi32_si128, _mm_cvtsi64_si128,
        _mm_cvtsi128_si32, _mm_cvtss_f32, _mm_insert_epi16, _mm_loadu_si128, _mm_set1_epi16,
        _mm_shuffle_epi32, _mm_srli_epi16, _mm_unpacklo_epi8, _mm256_abs_epi8, _mm256_add_epi32,
        _mm256_and_si256, _mm256_castsi256_si128, _mm256_cmpeq_epi8, _mm256_cvtepi8_epi16,
        _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_dpbusd_epi32, _mm256_dpwssd_epi32,
        _mm256_extracti128_si256, _mm256_fmadd_ps, _mm256_hadd_epi32, _mm256_loadu_ps, _mm256_loadu_si256,
        _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_maskz_set1_epi8, _mm256_mul_ps, _mm256_or_si256,
        _mm256_permute2x128_si256, _mm256_set_epi64x, _mm256_set_m128i, _mm256_set1_epi8, _mm256_set1_epi16,
        _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_shuffle_epi8,
        _mm256_sign_epi8, _mm256_slli_epi16, _mm256_srli_epi16, _mm256_storeu_ps, _mm256_sub_epi8,
        _mm256_test_epi8_mask,
    };

    use super::{Dots, DotsKernel, Portable};

    /// Two bytes, at any address.
    #[inline(always)]
    unsafe fn word(p: *const u8) -> i32 {
        // SAFETY: the caller's promise
        i32::from(unsafe { p.cast::<u16>().read_unaligned() })
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn avx2<K: DotsKernel>(kernel: K) {
        // SAFETY: the caller's promise
        unsafe { kernel.run::<X86<false>>() }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    pub(super) unsafe fn vnni<K: DotsKernel>(kernel: K) {
        // SAFETY: the caller's promise
        unsafe { kernel.run::<X86<true>>() }
    }

    /// AVX2, and where `VNNI` says so what came later: sums of products, and bits that choose bytes, in one operation instead of
    /// two to five.
    #[derive(Clone, Copy)]
    pub(in crate::tensor::cpu::quantised) struct X86<const VNNI: bool>;

    // SAFETY of each block below: the trait's promise, that the processor has the set and the pointers are good
    impl<const VNNI: bool> Dots for X86<VNNI> {
        type Bytes = __m256i;
        type Words = __m256i;
        type Ints = __m256i;
        type Floats = __m256;

        #[inline(always)]
        unsafe fn bytes(p: *const u8) -> __m256i {
            unsafe { _mm256_loadu_si256(p.cast()) }
        }
        #[inline(always)]
        unsafe fn halves(p: *const u8) -> __m256i {
            unsafe {
                let packed = _mm_loadu_si128(p.cast());
                Self::low(_mm256_set_m128i(_mm_srli_epi16::<4>(packed), packed))
            }
        }
        #[inline(always)]
        unsafe fn low(b: __m256i) -> __m256i {
            unsafe { _mm256_and_si256(b, _mm256_set1_epi8(15)) }
        }
        #[inline(always)]
        unsafe fn high(b: __m256i) -> __m256i {
            unsafe { Self::low(_mm256_srli_epi16::<4>(b)) }
        }
        #[inline(always)]
        unsafe fn sixteens(bits: u32) -> __m256i {
            unsafe {
                if VNNI {
                    return _mm256_maskz_set1_epi8(bits, 16);
                }
                // each byte of the bits eight times, then one bit of each
                let which =
                    _mm256_set_epi64x(0x0303_0303_0303_0303, 0x0202_0202_0202_0202, 0x0101_0101_0101_0101, 0);
                let spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), which);
                let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
                let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
                _mm256_and_si256(set, _mm256_set1_epi8(16))
            }
        }
        #[inline(always)]
        unsafe fn sixteen_where(b: __m256i, mask: u8) -> __m256i {
            unsafe {
                let mask = _mm256_set1_epi8(mask as i8);
                if VNNI {
                    return _mm256_maskz_set1_epi8(_mm256_test_epi8_mask(b, mask), 16);
                }
                let bits = _mm256_and_si256(b, mask);
                // a mask of one bit: what has it equals it
                _mm256_and_si256(_mm256_cmpeq_epi8(bits, mask), _mm256_set1_epi8(16))
            }
        }
        #[inline(always)]
        unsafe fn pair<const K: i32>(b: __m256i) -> __m256i {
            unsafe {
                let moved = match K {
                    0 => _mm256_slli_epi16::<4>(b),
                    1 => _mm256_slli_epi16::<2>(b),
                    2 => b,
                    _ => _mm256_srli_epi16::<2>(b),
                };
                _mm256_and_si256(moved, _mm256_set1_epi8(0x30))
            }
        }
        #[inline(always)]
        unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
            unsafe { _mm256_or_si256(a, b) }
        }
        #[inline(always)]
        unsafe fn minus(b: __m256i, less: i8) -> __m256i {
            unsafe { _mm256_sub_epi8(b, _mm256_set1_epi8(less)) }
        }
        #[inline(always)]
        unsafe fn dot(w: __m256i, a: __m256i) -> __m256i {
            unsafe {
                // one side is to be unsigned: its signs go to the other
                let (w, a) = (_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
                if VNNI {
                    return _mm256_dpbusd_epi32(_mm256_setzero_si256(), w, a);
                }
                // no sum of two leaves 16 bits, as none is -128
                _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1))
            }
        }
        #[inline(always)]
        unsafe fn pairs(w: __m256i, a: __m256i) -> __m256i {
            unsafe { _mm256_maddubs_epi16(w, a) }
        }
        #[inline(always)]
        unsafe fn words(p: *const i16) -> __m256i {
            unsafe { _mm256_loadu_si256(p.cast()) }
        }
        #[inline(always)]
        unsafe fn signed(p: *const u8) -> __m256i {
            unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())) }
        }
        #[inline(always)]
        unsafe fn twice(eight: u64) -> __m256i {
            unsafe {
                let bytes = _mm_cvtsi64_si128(eight as i64);
                _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(bytes, bytes))
            }
        }
        #[inline(always)]
        unsafe fn pick<const J: usize>(w: __m256i) -> __m256i {
            unsafe {
                let eight = if J < 4 {
                    _mm256_permute2x128_si256::<0x00>(w, w)
                } else {
                    _mm256_permute2x128_si256::<0x11>(w, w)
                };
                // the two bytes of a number, again and again
                let first = (4 * (J % 4)) as i16;
                let [first, last] = [first | (first + 1) << 8, (first + 2) | (first + 3) << 8];
                _mm256_shuffle_epi8(eight, _mm256_set_m128i(_mm_set1_epi16(last), _mm_set1_epi16(first)))
            }
        }
        #[inline(always)]
        unsafe fn add_dot_words(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
            unsafe {
                if VNNI {
                    return _mm256_dpwssd_epi32(sum, a, b);
                }
                _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
            }
        }
        #[inline(always)]
        unsafe fn no_bytes() -> __m256i {
            unsafe { _mm256_setzero_si256() }
        }
        #[inline(always)]
        unsafe fn no_ints() -> __m256i {
            unsafe { _mm256_setzero_si256() }
        }
        #[inline(always)]
        unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
            unsafe { _mm256_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn no_floats() -> __m256 {
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn sums(eight: [__m256i; 8]) -> __m256i {
            unsafe {
                let [a, b, c, d, e, f, g, h] = eight;
                // of each half of the lanes: the sums of `a` to `d`, and of `e` to `h`
                let four = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
                let more = _mm256_hadd_epi32(_mm256_hadd_epi32(e, f), _mm256_hadd_epi32(g, h));
                let lower = _mm256_permute2x128_si256::<0x20>(four, more);
                _mm256_add_epi32(lower, _mm256_permute2x128_si256::<0x31>(four, more))
            }
        }
        #[inline(always)]
        unsafe fn total(a: __m256i) -> i32 {
            unsafe {
                let four = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
                let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
                _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
            }
        }
        #[inline(always)]
        unsafe fn scale_add(scales: __m256, a: __m256i, b: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(a), b) }
        }
        #[inline(always)]
        unsafe fn scale_add_one(scale: f32, a: i32, b: f32) -> f32 {
            // one instruction, as the processor has it
            scale.mul_add(a as f32, b)
        }
        #[inline(always)]
        unsafe fn sum(v: __m256) -> f32 {
            let mut lanes = [0.0; 8];
            unsafe {
                _mm256_storeu_ps(lanes.as_mut_ptr(), v);
                Portable::sum(lanes)
            }
        }
        #[inline(always)]
        unsafe fn half(p: *const u8) -> f32 {
            unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(word(p)))) }
        }
        #[inline(always)]
        unsafe fn eight_halves(p: *const u8, stride: usize) -> __m256 {
            unsafe {
                let mut bits = _mm_cvtsi32_si128(word(p));
                bits = _mm_insert_epi16::<1>(bits, word(p.add(stride)));
                bits = _mm_insert_epi16::<2>(bits, word(p.add(2 * stride)));
                bits = _mm_insert_epi16::<3>(bits, word(p.add(3 * stride)));
                bits = _mm_insert_epi16::<4>(bits, word(p.add(4 * stride)));
                bits = _mm_insert_epi16::<5>(bits, word(p.add(5 * stride)));
                bits = _mm_insert_epi16::<6>(bits, word(p.add(6 * stride)));
                bits = _mm_insert_epi16::<7>(bits, word(p.add(7 * stride)));
                _mm256_cvtph_ps(bits)
            }
        }
        #[inline(always)]
        unsafe fn floats(p: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn times(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
    }
}
