// The host form of the kernels: what CUDA gives a kernel, in plain C++, so that `cargo test` runs the same sources on a
// machine without a GPU.
//
// A launch runs its blocks one after the other, each with a fiber a thread, all on the caller's own thread. A fiber runs
// until a barrier or a shuffle and then lets the next one run, so a race that needs two threads at the same instant does
// not show; a barrier that some threads of a block miss does: the launch fails. Shared memory begins as garbage (0xA5).
//
// Limits: shuffles and warp barriers of whole warps only; no more than the functions below.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
// All fibers of a launch are on one thread, and blocks run one after the other: this is what a block shares.
#define __shared__ static thread_local

struct dim3 {
  unsigned x, y, z;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

inline float __uint_as_float(unsigned x) {
  float out;
  std::memcpy(&out, &x, sizeof out);
  return out;
}
inline unsigned __float_as_uint(float x) {
  unsigned out;
  std::memcpy(&out, &x, sizeof out);
  return out;
}

// Four of the eight bytes of two words, b's the upper ones: one a hexadecimal digit of `which`, the lowest first.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned which) {
  const uint64_t both = uint64_t(b) << 32 | a;
  unsigned out = 0;
  for (unsigned i = 0; i < 4; i++) out |= unsigned(both >> (8 * (which >> (4 * i) & 7)) & 0xFF) << (8 * i);
  return out;
}

// bfloat16 and half precision as CUDA's headers name them: rounded to nearest, ties to even.
struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) {
  return __uint_as_float(uint32_t(x.bits) << 16);
}
inline __nv_bfloat16 __float2bfloat16(float x) {
  const uint32_t wide = __float_as_uint(x);
  if (x != x) return {uint16_t((wide >> 16) | 0x40)};
  return {uint16_t((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16)};
}
struct __half {
  _Float16 value;
};
inline float __half2float(__half x) { return float(x.value); }
inline __half __float2half(float x) { return {_Float16(x)}; }

namespace emulator {

struct Place {
  dim3 thread, block, threads, blocks;
};
extern thread_local Place place;

enum class Barrier { Block, Warp };
void wait(Barrier barrier);
// 64 bytes of each lane of the calling warp, to hand values over in.
unsigned char* slot(unsigned lane);
unsigned char* dynamic_shared();

inline unsigned lane() {
  const Place& p = place;
  return (p.thread.x + p.threads.x * (p.thread.y + p.threads.y * p.thread.z)) % 32;
}

template <class T>
T from_lane(T value, unsigned source) {
  static_assert(sizeof(T) <= 64, "too large to hand over");
  std::memcpy(slot(lane()), &value, sizeof value);
  wait(Barrier::Warp);
  T out;
  std::memcpy(&out, slot(source % 32), sizeof out);
  wait(Barrier::Warp);
  return out;
}

using Call = void (*)(void** arguments);

struct Kernel {
  Kernel(const char* name, Call call);
};

template <class... A, size_t... I>
void apply(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}
template <auto kernel, class... A>
void unpack(void (*)(A...), void** arguments) {
  apply(kernel, arguments, std::index_sequence_for<A...>{});
}
template <auto kernel>
void call(void** arguments) {
  unpack<kernel>(kernel, arguments);
}

}  // namespace emulator

using std::max;
using std::min;

#define threadIdx (emulator::place.thread)
#define blockIdx (emulator::place.block)
#define blockDim (emulator::place.threads)
#define gridDim (emulator::place.blocks)

inline void __syncthreads() { emulator::wait(emulator::Barrier::Block); }
inline void __syncwarp() { emulator::wait(emulator::Barrier::Warp); }
inline void __threadfence() {}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulator::from_lane(value, emulator::lane() ^ unsigned(mask));
}
template <class T, class U>
T atomicAdd(T* at, U value) {
  T before = *at;
  *at = T(before + value);
  return before;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
