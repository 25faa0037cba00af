// Quantised weights as a device holds them, and how they become numbers: one struct a format, for all kernels.
//
// Source: the block formats of GGML (github.com/ggml-org/ggml, ggml-common.h), whose maths `src/tensor/blocks` has. A block
// of 18 to 210 bytes is aligned to nothing, so a device holds the same bytes in another order: planes, each of one field of
// all blocks, row by row (`src/tensor/blocks/planes.rs`): the lower bits of the quants, their upper bits, the scales of
// sub-blocks, and the half-precision scales. Whatever the shape, each plane is as aligned as its loads want it.
//
// Four lanes share a chunk of 128 columns of a row, c = 0..3. Groups of 32 columns are laid out for the fragments of
// tensor cores (mma.cuh): of a group, lane c holds eight numbers, v0 to v7. Where a scale is for 32 of them they are columns
// 8c to 8c + 7; where it is for 16, columns 4c to 4c + 3 of the first half and of the second. In a plane of BITS bits the
// eight are BITS bytes, and a lane's part of a chunk is BITS words, one access, as its groups lie side by side. Bytes are in
// order; of smaller fields v0 v2 v4 v6 come first and then v1 v3 v5 v7, so that v(2i) and v(2i + 1) are half a word apart and
// one mask picks a pair. The last chunk of a row may have fewer groups, and is laid out as if it were so wide.
#pragma once

#include "mma.cuh"

using u8 = unsigned char;
using u16 = uint16_t;

constexpr int CHUNK = 128;
constexpr int GROUPS = 4;
constexpr int GROUP = 32;

template <int N>
struct alignas(4 * N > 16 ? 16 : 4 * N) Words {
  u32 at[N];
};

// Powers of two, in both halves of a word, whose last place is 1: what is or-ed into their mantissa is added to them.
template <class T>
constexpr u32 POWER = 0;
template <>
constexpr u32 POWER<bf16> = 0x43004300;  // 128
template <>
constexpr u32 POWER<f16> = 0x64006400;  // 1024

// a - b, for pairs of T.
template <class T>
__device__ inline u32 difference(u32 a, u32 b) {
#ifdef SWITCHBACK_EMULATED
  const Pair<T> x = unpacked<T>(a), y = unpacked<T>(b);
  return packed<T>(widen(x.low) - widen(y.low), widen(x.high) - widen(y.high));
#else
  if constexpr (POWER<T> == POWER<f16>) {
    const __half2 d = __hsub2(reinterpret_cast<__half2&>(a), reinterpret_cast<__half2&>(b));
    return reinterpret_cast<const u32&>(d);
  } else {
    const __nv_bfloat162 d = __hsub2(reinterpret_cast<__nv_bfloat162&>(a), reinterpret_cast<__nv_bfloat162&>(b));
    return reinterpret_cast<const u32&>(d);
  }
#endif
}

// Whole numbers from 0 to 127 in both halves of a word, less `zero`, as a pair of T.
template <class T>
__device__ inline u32 whole(u32 pair, u32 zero) {
  return difference<T>(pair | POWER<T>, POWER<T> + zero * 0x00010001);
}

// What a lane has of one plane of a chunk of a row.
template <int BITS>
using Bits = Words<BITS>;

template <int BITS>
__device__ inline Bits<BITS> load_bits(const u8* row, int chunk, int groups, int c) {
  const u8* from = row + size_t(chunk) * (CHUNK / 8 * BITS) + c * groups * BITS;
  Bits<BITS> out;
  if (groups == GROUPS) {
    if constexpr (BITS >= 4) {
#pragma unroll
      for (int i = 0; i < BITS; i += 4) {
        const Wide<u32> four = load_once(reinterpret_cast<const u32*>(from) + i);
#pragma unroll
        for (int j = 0; j < 4; j++) out.at[i + j] = four.at[j];
      }
    } else {
      out = *reinterpret_cast<const Bits<BITS>*>(from);
    }
    return out;
  }
#pragma unroll
  for (int i = 0; i < BITS; i++) out.at[i] = 0;
  // Accesses as large as a group's part: a row of 32 columns is no better aligned. Only small blocks end so, none of which
  // has a plane of two bits.
#pragma unroll
  for (int s = 0; s < GROUPS - 1; s++) {
    if (s >= groups) break;
    if constexpr (BITS == 8) {
      out.at[2 * s] = reinterpret_cast<const u32*>(from)[2 * s];
      out.at[2 * s + 1] = reinterpret_cast<const u32*>(from)[2 * s + 1];
    } else if constexpr (BITS == 4) {
      out.at[s] = reinterpret_cast<const u32*>(from)[s];
    } else if constexpr (BITS == 1) {
      out.at[0] |= u32(from[s]) << (8 * s);
    }
  }
  return out;
}

// Pair i, v(2i) and v(2i + 1), of group s.
__device__ inline u32 pair_of(const Bits<8>& bits, int s, int i) {
  return __byte_perm(bits.at[2 * s + i / 2], 0, i % 2 ? 0x4342 : 0x4140);
}
__device__ inline u32 pair_of(const Bits<4>& bits, int s, int i) { return bits.at[s] >> (4 * i) & 0x000F000F; }
__device__ inline u32 pair_of(const Bits<2>& bits, int s, int i) {
  return __byte_perm(bits.at[s / 2], 0, s % 2 ? 0x4342 : 0x4140) >> (2 * i) & 0x00030003;
}
__device__ inline u32 pair_of(const Bits<1>& bits, int s, int i) {
  const u32 byte = bits.at[0] >> (8 * s);
  return ((byte & 0x0F) | (byte & 0xF0) << 12) >> i & 0x00010001;
}

__device__ inline float half_of(u32 word, int i) {
  const u16 bits = u16(i % 2 ? word >> 16 : word);
  f16 half;
  memcpy(&half, &bits, sizeof half);
  return widen(half);
}

// Byte i of a word less `zero`, exactly.
__device__ inline float byte_of(u32 word, int i, float zero) {
  // 2^23 with the byte in its last places
  return __uint_as_float(__byte_perm(word, 0x4B000000, 0x7440 + i)) - (8388608.0f + zero);
}

// N halves for each group of a chunk.
template <int N>
__device__ inline Words<2 * N> load_halves(const u8* row, int chunk, int groups, int width) {
  const u16* from = reinterpret_cast<const u16*>(row) + chunk * GROUPS * N;
  if (width % CHUNK == 0) return *reinterpret_cast<const Words<2 * N>*>(from);
  Words<2 * N> out;
#pragma unroll
  for (int i = 0; i < 2 * N; i++) {
    // of a group that is not there, nothing
    const bool low = 2 * i < groups * N, high = 2 * i + 1 < groups * N;
    out.at[i] = (low ? u32(from[2 * i]) : 0) | (high ? u32(from[2 * i + 1]) << 16 : 0);
  }
  return out;
}

// Where the planes of a weight [outs, width] lie for a row, whose blocks have A, B, C and D bytes in them. Offsets of 32 bits
// take half the registers of pointers.
template <int BLOCK, int A, int B, int C, int D>
struct Rows {
  const u8* weight;
  u32 low_at, high_at, scales_at, halves_at;

  __device__ void find(const u8* of, int outs, int width, int row) {
    const u32 all = u32(outs) * u32(width / BLOCK), before = u32(row) * u32(width / BLOCK);
    weight = of;
    low_at = before * A;
    high_at = all * A + before * B;
    scales_at = all * (A + B) + before * C;
    halves_at = all * (A + B + C) + before * D;
  }
  __device__ const u8* low() const { return weight + low_at; }
  __device__ const u8* high() const { return weight + high_at; }
  __device__ const u8* scales() const { return weight + scales_at; }
  __device__ const u8* halves() const { return weight + halves_at; }
};

// d (q - ZERO), or d q + m with MINIMUM, for LOW + HIGH bits of q.
template <int LOW, int HIGH, int ZERO, bool MINIMUM>
struct SmallBlocks {
  static constexpr bool LESS = MINIMUM;
  // columns that share a scale
  static constexpr int SHARED = 32;
  static constexpr int HALVES = MINIMUM ? 2 : 1;
  using Row = Rows<32, 4 * LOW, 4 * HIGH, 0, 2 * HALVES>;
  Bits<LOW> low;
  Bits<HIGH ? HIGH : 1> high;
  Words<2 * HALVES> halves;

  __device__ void load(const Row& row, int chunk, int groups, int c, int width) {
    low = load_bits<LOW>(row.low(), chunk, groups, c);
    if constexpr (HIGH > 0) high = load_bits<HIGH>(row.high(), chunk, groups, c);
    halves = load_halves<HALVES>(row.halves(), chunk, groups, width);
  }
  template <class T>
  __device__ u32 pair(int s, int i) const {
    const u32 q = pair_of(low, s, i);
    if constexpr (LOW == 8) {
      // signed: in bf16 128 more than its lower seven bits, less 128 or, with the sign, 256
      if constexpr (POWER<T> == POWER<f16>) return difference<T>(q ^ 0x64806480, 0x64806480);
      return difference<T>((q & 0x007F007F) | POWER<T>, (q & 0x00800080) | POWER<T>);
    }
    if constexpr (HIGH > 0) return whole<T>(q | pair_of(high, s, i) << LOW, ZERO);
    return whole<T>(q, ZERO);
  }
  __device__ float scale(int s) const { return half_of(halves.at[HALVES == 2 ? s : s / 2], HALVES == 2 ? 0 : s); }
  __device__ float less(int s) const { return HALVES == 2 ? -half_of(halves.at[HALVES == 2 ? s : 0], 1) : 0.0f; }
};
using q4_0 = SmallBlocks<4, 0, 8, false>;
using q4_1 = SmallBlocks<4, 0, 0, true>;
using q5_0 = SmallBlocks<4, 1, 16, false>;
using q5_1 = SmallBlocks<4, 1, 0, true>;
using q8_0 = SmallBlocks<8, 0, 0, false>;

// Half of a block of 256 is a chunk: d s q - m t for 32, with the twelve bytes of six-bit s and t.
template <int HIGH>
struct SixBitScales {
  static constexpr bool LESS = true;
  static constexpr int SHARED = 32;
  using Row = Rows<256, 128, 32 * HIGH, 12, 4>;
  Bits<4> low;
  Bits<1> high;
  u32 scales, minima, halves;

  __device__ void load(const Row& row, int chunk, int, int c, int) {
    low = load_bits<4>(row.low(), chunk, GROUPS, c);
    if constexpr (HIGH > 0) high = load_bits<HIGH>(row.high(), chunk, GROUPS, c);
    const u32* packed = reinterpret_cast<const u32*>(row.scales()) + chunk / 2 * 3;
    // the first four of each in the lower six bits; of the others the lower four together, the upper two above the first
    const u32 s = packed[0], t = packed[1], rest = packed[2];
    scales = chunk % 2 ? (rest & 0x0F0F0F0F) | (s >> 2 & 0x30303030) : s & 0x3F3F3F3F;
    minima = chunk % 2 ? (rest >> 4 & 0x0F0F0F0F) | (t >> 2 & 0x30303030) : t & 0x3F3F3F3F;
    halves = reinterpret_cast<const u32*>(row.halves())[chunk / 2];
  }
  template <class T>
  __device__ u32 pair(int s, int i) const {
    if constexpr (HIGH > 0) return whole<T>(pair_of(low, s, i) | pair_of(high, s, i) << 4, 0);
    return whole<T>(pair_of(low, s, i), 0);
  }
  __device__ float scale(int s) const { return half_of(halves, 0) * byte_of(scales, s, 0.0f); }
  __device__ float less(int s) const { return half_of(halves, 1) * byte_of(minima, s, 0.0f); }
};
using q4_k = SixBitScales<0>;
using q5_k = SixBitScales<1>;

// d s q - m t for 16, four bits each of s and t.
struct q2_k {
  static constexpr bool LESS = true;
  static constexpr int SHARED = 16;
  using Row = Rows<256, 64, 0, 16, 4>;
  Bits<2> low;
  Words<2> scales;
  u32 halves;

  __device__ void load(const Row& row, int chunk, int, int c, int) {
    low = load_bits<2>(row.low(), chunk, GROUPS, c);
    scales = reinterpret_cast<const Words<2>*>(row.scales())[chunk];
    halves = reinterpret_cast<const u32*>(row.halves())[chunk / 2];
  }
  template <class T>
  __device__ u32 pair(int s, int i) const {
    return whole<T>(pair_of(low, s, i), 0);
  }
  __device__ float scale(int s) const { return half_of(halves, 0) * byte_of(scales.at[s / 4] & 0x0F0F0F0F, s % 4, 0.0f); }
  __device__ float less(int s) const {
    return half_of(halves, 1) * byte_of(scales.at[s / 4] >> 4 & 0x0F0F0F0F, s % 4, 0.0f);
  }
};

// d s (q - 4) for 16; s has six bits, 32 too many.
struct q3_k {
  static constexpr bool LESS = false;
  static constexpr int SHARED = 16;
  using Row = Rows<256, 64, 32, 12, 2>;
  Bits<2> low;
  Bits<1> high;
  Words<2> scales;
  u32 half;

  __device__ void load(const Row& row, int chunk, int, int c, int) {
    low = load_bits<2>(row.low(), chunk, GROUPS, c);
    high = load_bits<1>(row.high(), chunk, GROUPS, c);
    const u32* packed = reinterpret_cast<const u32*>(row.scales()) + chunk / 2 * 3;
    // the lower four bits of 16 in eight bytes, the first half's below; the upper two of four numbers in a byte
    const int second = chunk % 2;
    const u32 upper = packed[2] >> (4 * second);
    scales.at[0] = (packed[0] >> (4 * second) & 0x0F0F0F0F) | (upper & 0x03030303) << 4;
    scales.at[1] = (packed[1] >> (4 * second) & 0x0F0F0F0F) | (upper >> 2 & 0x03030303) << 4;
    half = reinterpret_cast<const u16*>(row.halves())[chunk / 2];
  }
  template <class T>
  __device__ u32 pair(int s, int i) const {
    return whole<T>(pair_of(low, s, i) | pair_of(high, s, i) << 2, 4);
  }
  __device__ float scale(int s) const { return half_of(half, 0) * byte_of(scales.at[s / 4], s % 4, 32.0f); }
  __device__ float less(int) const { return 0.0f; }
};

// d s (q - 32) for 16; s has eight bits.
struct q6_k {
  static constexpr bool LESS = false;
  static constexpr int SHARED = 16;
  using Row = Rows<256, 128, 64, 16, 2>;
  Bits<4> low;
  Bits<2> high;
  Words<2> scales;
  u32 half;

  __device__ void load(const Row& row, int chunk, int, int c, int) {
    low = load_bits<4>(row.low(), chunk, GROUPS, c);
    high = load_bits<2>(row.high(), chunk, GROUPS, c);
    scales = reinterpret_cast<const Words<2>*>(row.scales())[chunk];
    half = reinterpret_cast<const u16*>(row.halves())[chunk / 2];
  }
  template <class T>
  __device__ u32 pair(int s, int i) const {
    return whole<T>(pair_of(low, s, i) | pair_of(high, s, i) << 4, 32);
  }
  __device__ float scale(int s) const { return half_of(half, 0) * byte_of(scales.at[s / 4] ^ 0x80808080, s % 4, 128.0f); }
  __device__ float less(int) const { return 0.0f; }
};

// How many chunks a row has, and groups one of them.
__device__ inline int chunks_of(int width) { return (width + CHUNK - 1) / CHUNK; }
__device__ inline int groups_of(int width, int chunk) { return min(GROUPS, (width - chunk * CHUNK) / GROUP); }

// The column of v0 (half 0) or v4 (half 1) of group s, whose next three follow.
template <class F>
__device__ inline int column(int chunk, int s, int c, int half) {
  return chunk * CHUNK + s * GROUP + (F::SHARED == 32 ? 8 * c + 4 * half : 4 * c + 16 * half);
}

// v0 to v3 or v4 to v7 of group s.
template <class F>
__device__ inline void four_of(const F& part, int s, int half, float (&out)[4]) {
  const int shared = F::SHARED == 32 ? s : 2 * s + half;
  const float scale = part.scale(shared), less = part.less(shared);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const u32 pair = part.template pair<bf16>(s, 2 * half + i);
    out[2 * i] = scale * __uint_as_float(pair << 16) - less;
    out[2 * i + 1] = scale * __uint_as_float(pair & 0xFFFF0000) - less;
  }
}

template <class T>
struct alignas(4 * sizeof(T)) Four {
  T at[4];
};

// Row `out` of a weight [outs, width] times x, by a whole warp.
template <class F, class T>
__device__ float block_product(const T* x, const u8* weight, int out, int outs, int width) {
  typename F::Row row;
  row.find(weight, outs, width, out);
  const int lane = threadIdx.x % WARP, c = lane % 4;
  float sum = 0.0f;
  for (int chunk = lane / 4; chunk < chunks_of(width); chunk += WARP / 4) {
    const int groups = groups_of(width, chunk);
    F part;
    part.load(row, chunk, groups, c, width);
#pragma unroll
    for (int s = 0; s < GROUPS; s++) {
      if (s >= groups) break;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const Four<T> values = *reinterpret_cast<const Four<T>*>(x + column<F>(chunk, s, c, half));
        float weights[4];
        four_of(part, s, half, weights);
#pragma unroll
        for (int i = 0; i < 4; i++) sum += widen(values.at[i]) * weights[i];
      }
    }
  }
  return warp_sum(sum);
}

// Calls of a macro for each format.
#define FOR_EACH_FORMAT(CALL) \
  CALL(q4_0) CALL(q4_1) CALL(q5_0) CALL(q5_1) CALL(q8_0) CALL(q2_k) CALL(q3_k) CALL(q4_k) CALL(q5_k) CALL(q6_k)
