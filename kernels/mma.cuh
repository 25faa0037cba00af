// Products of 16 x 16 by 16 x 8 tiles on a warp's tensor cores (mma.sync m16n8k16, sm_80 and later), and what feeds
// them. PTX ISA, "Matrix fragments for mma.m16n8k16": with g = lane / 4 and c = lane % 4,
//   A [16, 16]: a0 (g, 2c..), a1 (g + 8, 2c..), a2 (g, 2c + 8..), a3 (g + 8, 2c + 8..), two neighbours each;
//   B [16, 8]:  b0 (2c.., g), b1 (2c + 8.., g);     C [16, 8]: c0 c1 (g, 2c..), c2 c3 (g + 8, 2c..).
//
// Each has a host form that hands fragments over between lanes, so kernels of tensor cores are tested without a GPU,
// too; not how the cores round, which add in f32 in an order of their own.
#pragma once

#include "common.cuh"

template <class T>
struct Pair {
  T low, high;
};

template <class T>
__device__ inline u32 packed(float low, float high) {
  Pair<T> pair{narrow<T>(low), narrow<T>(high)};
  static_assert(sizeof pair == sizeof(u32), "two elements of 16 bits");
  u32 out;
  memcpy(&out, &pair, sizeof out);
  return out;
}

#ifdef SWITCHBACK_EMULATED

struct Fragments {
  u32 a[4], b[2];
};

template <class T>
inline Pair<T> unpacked(u32 from) {
  Pair<T> out;
  std::memcpy(&out, &from, sizeof out);
  return out;
}

// d += a b
template <class T>
inline void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  const Fragments mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const unsigned lane = emulator::lane(), g = lane / 4, c = lane % 4;
  std::memcpy(emulator::slot(lane), &mine, sizeof mine);
  __syncwarp();
  auto of = [](unsigned other) {
    Fragments out;
    std::memcpy(&out, emulator::slot(other), sizeof out);
    return out;
  };
  float sums[4] = {};
  for (unsigned k = 0; k < 16; k += 2) {
    const unsigned holder = k % 8 / 2, upper = k / 8;  // the lane in a row of four that holds columns k and k + 1
    for (unsigned half = 0; half < 2; half++) {
      const Pair<T> x = unpacked<T>(of(g * 4 + holder).a[upper * 2 + half]);
      for (unsigned j = 0; j < 2; j++) {
        const Pair<T> y = unpacked<T>(of((2 * c + j) * 4 + holder).b[upper]);
        sums[half * 2 + j] += widen(x.low) * widen(y.low) + widen(x.high) * widen(y.high);
      }
    }
  }
  __syncwarp();
  for (int i = 0; i < 4; i++) d[i] += sums[i];
}

// Lane l names row l % 8 of matrix l / 8, eight elements long; lane (g, c) gets elements 2c and 2c + 1 of row g of each.
template <class T>
inline void load_matrices(u32 (&out)[4], const T* row) {
  const unsigned lane = emulator::lane();
  std::memcpy(emulator::slot(lane), &row, sizeof row);
  __syncwarp();
  for (unsigned j = 0; j < 4; j++) {
    const T* from;
    std::memcpy(&from, emulator::slot(8 * j + lane / 4), sizeof from);
    std::memcpy(&out[j], from + 2 * (lane % 4), sizeof out[j]);
  }
  __syncwarp();
}

// The same with each matrix transposed: elements (2c, g) and (2c + 1, g).
template <class T>
inline void load_transposed(u32 (&out)[4], const T* row) {
  const unsigned lane = emulator::lane();
  std::memcpy(emulator::slot(lane), &row, sizeof row);
  __syncwarp();
  for (unsigned j = 0; j < 4; j++) {
    Pair<T> pair;
    const T* from;
    std::memcpy(&from, emulator::slot(8 * j + 2 * (lane % 4)), sizeof from);
    pair.low = from[lane / 4];
    std::memcpy(&from, emulator::slot(8 * j + 2 * (lane % 4) + 1), sizeof from);
    pair.high = from[lane / 4];
    std::memcpy(&out[j], &pair, sizeof pair);
  }
  __syncwarp();
}

template <class T>
inline void copy_async(T* to, const T* from) {
  std::memcpy(static_cast<void*>(to), from, 16);
}
inline void copies_end() {}
template <int STILL>
inline void wait_for_copies() {}

#else

template <class T>
__device__ inline void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);
template <>
__device__ inline void mma<bf16>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ inline void mma<f16>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <class T>
__device__ inline void load_matrices(u32 (&out)[4], const T* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(u32(__cvta_generic_to_shared(row)))
               : "memory");
}

template <class T>
__device__ inline void load_transposed(u32 (&out)[4], const T* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(u32(__cvta_generic_to_shared(row)))
               : "memory");
}

// Sixteen bytes from global into shared memory, past the registers.
template <class T>
__device__ inline void copy_async(T* to, const T* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(u32(__cvta_generic_to_shared(to))), "l"(from)
               : "memory");
}
// Ends a group of copies.
__device__ inline void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for all of this thread's groups but the last STILL.
template <int STILL>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(STILL) : "memory");
}

#endif
