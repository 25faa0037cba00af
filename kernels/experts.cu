// Mixtures of experts (Shazeer et al., 2017): each row goes through the few experts that score highest for it.
//
// Layout: scores f32 [rows, experts]; picked u32 and shares f32 [rows, per_token], the best first; x T [rows, width];
// table [3, experts], where the gate, the upward and the downward layer of each expert lie, row-major T. A warp takes one
// output of one row, so that a row's result does not depend on the others, and rows need not be grouped on the host. It
// reads an expert's weights once for each row: right for a decode step, which is bound by them, and slow for a long
// prompt. All sums are in f32. Where weights are quantised they lie in planes (blocks.cuh); gates and upward layers are of
// one format, downward layers of one.
#include "blocks.cuh"

using u64 = unsigned long long;

constexpr int EXPERT_WARPS = 4;
constexpr int EXPERT_THREADS = EXPERT_WARPS * WARP;
// of a multiprocessor, at least
constexpr int EXPERT_BLOCKS = 4;

struct Pick {
  float score;
  int expert;
};

// Whether a comes before b: the higher score, and of equal ones the first expert.
__device__ inline bool before(Pick a, Pick b) { return a.score > b.score || (a.score == b.score && a.expert < b.expert); }

// One warp a row. Each round finds the best of those that come after the last one found, so nothing is remembered.
KERNEL(route, WARP,
       (const float* scores, u32* picked, float* shares, int experts, int per_token, int normalised)) {
  const int row = blockIdx.x, lane = threadIdx.x;
  scores += size_t(row) * experts;
  picked += size_t(row) * per_token;
  shares += size_t(row) * per_token;
  Pick last = {INFINITY, -1};
  float highest = 0.0f, sum = 0.0f;
  for (int round = 0; round < per_token; round++) {
    Pick best = {-INFINITY, experts};
    for (int e = lane; e < experts; e += WARP) {
      const Pick own = {scores[e], e};
      if (before(last, own) && before(own, best)) best = own;
    }
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
      Pick other;
      other.score = __shfl_xor_sync(ALL_LANES, best.score, offset);
      other.expert = __shfl_xor_sync(ALL_LANES, best.expert, offset);
      if (before(other, best)) best = other;
    }
    // scores that are not numbers come before nothing: any expert will do, as the row is lost
    if (best.expert == experts) best = {NAN, 0};
    if (round == 0) highest = best.score;
    const float weight = __expf(best.score - highest);
    sum += weight;
    if (lane == 0) {
      picked[round] = best.expert;
      shares[round] = weight;
    }
    last = best;
  }
  if (!normalised) {
    sum = 0.0f;
    for (int e = lane; e < experts; e += WARP) sum += __expf(scores[e] - highest);
    sum = warp_sum(sum);
  }
  if (lane == 0) {
    for (int round = 0; round < per_token; round++) shares[round] /= sum;
  }
}

// A weight [outs, width] as it was trained. `product` is that of x and one of its rows, by a whole warp.
template <class T>
struct Plain {
  static __device__ float product(const T* x, u64 address, int out, int outs, int width);
};

// And one of blocks.
template <class F>
struct Quantised {
  template <class T>
  static __device__ float product(const T* x, u64 address, int out, int outs, int width) {
    return block_product<F>(x, reinterpret_cast<const u8*>(address), out, outs, width);
  }
};

template <class T>
__device__ float Plain<T>::product(const T* x, u64 address, int out, int, int width) {
  const T* const weight = reinterpret_cast<const T*>(address) + size_t(out) * width;
  float sum = 0.0f;
  if (width % WIDE<T> == 0) {
    for (int k = threadIdx.x % WARP * WIDE<T>; k < width; k += WARP * WIDE<T>) {
      const Wide<T> a = load_wide(x + k), b = load_wide(weight + k);
#pragma unroll
      for (int i = 0; i < WIDE<T>; i++) sum += widen(a.at[i]) * widen(b.at[i]);
    }
  } else {
    for (int k = threadIdx.x % WARP; k < width; k += WARP) sum += widen(x[k]) * widen(weight[k]);
  }
  return warp_sum(sum);
}

// h [rows, per_token, outs] of x [rows, width]: each picked expert's gate and upward layer.
template <class W, class T>
__device__ void experts_gated(const T* x, const u64* table, const u32* picked, T* h, int per_token, int experts,
                              int outs, int width, int activation) {
  const int pick = blockIdx.x, out = blockIdx.y * EXPERT_WARPS + threadIdx.x / WARP;
  if (out >= outs) return;
  x += size_t(pick / per_token) * width;
  const float a = W::product(x, table[picked[pick]], out, outs, width);
  const float b = W::product(x, table[experts + picked[pick]], out, outs, width);
  if (threadIdx.x % WARP == 0) h[size_t(pick) * outs + out] = narrow<T>(activated(a, activation) * b);
}

// y [rows, outs] of h [rows, per_token, width]: the downward layers, each by its share.
template <class W, class T>
__device__ void experts_down(const T* h, const u64* table, const u32* picked, const float* shares, T* y, int per_token,
                             int experts, int outs, int width) {
  const int row = blockIdx.x, out = blockIdx.y * EXPERT_WARPS + threadIdx.x / WARP;
  if (out >= outs) return;
  float sum = 0.0f;
  for (int i = 0; i < per_token; i++) {
    const size_t pick = size_t(row) * per_token + i;
    sum += shares[pick] * W::product(h + pick * width, table[2 * experts + picked[pick]], out, outs, width);
  }
  if (threadIdx.x % WARP == 0) y[size_t(row) * outs + out] = narrow<T>(sum);
}

#define EXPERTS(W, NAME, T)                                                                                      \
  KERNEL_OF_BLOCKS(experts_gated_##NAME, EXPERT_THREADS, EXPERT_BLOCKS,                                          \
         (const T* x, const u64* table, const u32* picked, T* h, int per_token, int experts, int outs, int width, \
          int activation)) {                                                                                     \
    experts_gated<W, T>(x, table, picked, h, per_token, experts, outs, width, activation);                       \
  }                                                                                                              \
  KERNEL_OF_BLOCKS(experts_down_##NAME, EXPERT_THREADS, EXPERT_BLOCKS,                                           \
         (const T* h, const u64* table, const u32* picked, const float* shares, T* y, int per_token, int experts, \
          int outs, int width)) {                                                                                \
    experts_down<W, T>(h, table, picked, shares, y, per_token, experts, outs, width);                            \
  }
#define QUANTISED_EXPERTS(F)             \
  EXPERTS(Quantised<F>, F##_f32, f32)    \
  EXPERTS(Quantised<F>, F##_f16, f16)    \
  EXPERTS(Quantised<F>, F##_bf16, bf16)
EXPERTS(Plain<f32>, f32, f32)
EXPERTS(Plain<f16>, f16, f16)
EXPERTS(Plain<bf16>, bf16, bf16)
FOR_EACH_FORMAT(QUANTISED_EXPERTS)
