// What all kernel families share: element types, 16-byte accesses, sums over a warp and a block.
//
// A kernel is a device template over the element type T of a model's weights and activations (f32, f16 or bf16; all
// arithmetic is in f32), and one `KERNEL` for each T, which the server finds by name: `rms_norm_bf16`. Pointers are 16
// bytes aligned at least; rows need not be, and a width that is no whole number of 16-byte accesses takes a slower path.
#pragma once

#ifdef SWITCHBACK_EMULATED
#include "host/emulator.h"
#define KERNEL(name, threads, parameters) \
  void name parameters;                   \
  static emulator::Kernel registered_##name(#name, emulator::call<name>); \
  void name parameters
#define KERNEL_OF_BLOCKS(name, threads, blocks, parameters) KERNEL(name, threads, parameters)
#define DYNAMIC_SHARED(name) unsigned char* name = emulator::dynamic_shared()
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdint>
#define KERNEL(name, threads, parameters) extern "C" __global__ void __launch_bounds__(threads) name parameters
// One of which a multiprocessor is to have so many blocks: registers up to there are better than spills.
#define KERNEL_OF_BLOCKS(name, threads, blocks, parameters) \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name parameters
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

using u32 = uint32_t;
using f32 = float;
using f16 = __half;
using bf16 = __nv_bfloat16;

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = ~0u;
// The slot of a row whose keys and values go nowhere: one that only fills a batch up.
constexpr u32 NO_SLOT = ~0u;

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(f16 x) { return __half2float(x); }
__device__ inline float widen(bf16 x) { return __bfloat162float(x); }

template <class T>
__device__ T narrow(float x);
template <>
__device__ inline float narrow<float>(float x) { return x; }
template <>
__device__ inline f16 narrow<f16>(float x) { return __float2half(x); }
template <>
__device__ inline bf16 narrow<bf16>(float x) { return __float2bfloat16(x); }

// Elements of one 16-byte access.
template <class T>
constexpr int WIDE = 16 / int(sizeof(T));

template <class T>
struct alignas(16) Wide {
  T at[WIDE<T>];
};

template <class T>
__device__ inline Wide<T> load_wide(const T* from) {
  return *reinterpret_cast<const Wide<T>*>(from);
}

// For what is read once: it should not push what is read again out of the caches.
template <class T>
__device__ inline Wide<T> load_once(const T* from) {
#ifdef SWITCHBACK_EMULATED
  return load_wide(from);
#else
  uint4 raw = __ldcs(reinterpret_cast<const uint4*>(from));
  return *reinterpret_cast<Wide<T>*>(&raw);
#endif
}

template <class T>
__device__ inline void store_wide(T* to, const Wide<T>& values) {
  *reinterpret_cast<Wide<T>*>(to) = values;
}

struct Sum {
  static constexpr float NOTHING = 0.0f;
  __device__ static float of(float a, float b) { return a + b; }
};
struct Max {
  static constexpr float NOTHING = -INFINITY;
  __device__ static float of(float a, float b) { return fmaxf(a, b); }
};

template <class Fold>
__device__ inline float warp_fold(float x) {
#pragma unroll
  for (int offset = WARP / 2; offset > 0; offset /= 2) x = Fold::of(x, __shfl_xor_sync(ALL_LANES, x, offset));
  return x;
}

// Over a block of whole warps, at most 32 of them; the result is in each of its threads. A barrier for all of them.
template <class Fold>
__device__ inline float block_fold(float x) {
  __shared__ float partial[WARP];
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  x = warp_fold<Fold>(x);
  __syncthreads();  // of a fold before this one
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  return warp_fold<Fold>(lane < warps ? partial[lane] : Fold::NOTHING);
}

__device__ inline float warp_sum(float x) { return warp_fold<Sum>(x); }
__device__ inline float block_sum(float x) { return block_fold<Sum>(x); }
__device__ inline float block_max(float x) { return block_fold<Max>(x); }

// The activation of a gate, as the host numbers them: silu, or gelu by its approximation with tanh, which is
// x / (1 + exp(-2u)) for u = sqrt(2 / pi) (x + 0.044715 x^3).
constexpr int SILU = 0, GELU_TANH = 1;
__device__ inline float activated(float x, int activation) {
  const float z = activation == GELU_TANH ? x * (1.5957691f + 0.071354814f * x * x) : x;
  return x / (1.0f + __expf(-z));
}
