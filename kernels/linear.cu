// y = x W^T + b for few rows: a decode step of a small batch, which is bound by the bytes of W.
//
// Layout: x T [rows, width], W T [outs, width] as checkpoints store it, b f32 [outs] or none, y [rows, outs] in T or, for
// logits, in f32. At most 8 rows a launch: more are a matter of tensor cores. A warp takes two rows of W, reads each
// byte of them once, 16 a lane and eight such accesses under way, and serves all rows of x with them; x comes out of the
// caches. Two rows of W share what is read of x. Sums are in f32 and in an order that does not depend on the number of
// rows, so that a row's result does not depend on its neighbours.
//
// `gated` is the first half of an MLP: act(x G^T + g) * (x U^T + u), whose two rows are one of G and one of U.
#include "common.cuh"

constexpr int LINEAR_WARPS = 4;
constexpr int LINEAR_THREADS = LINEAR_WARPS * WARP;
constexpr int AHEAD = 4;

// Products of one lane's part of two rows of weights with ROWS rows of x.
template <class T, int ROWS>
__device__ void two_rows(const T* x, const T* first, const T* second, int rows, int width, float (&sums)[ROWS][2]) {
  const int lane = threadIdx.x % WARP;
#pragma unroll
  for (int r = 0; r < ROWS; r++) sums[r][0] = sums[r][1] = 0.0f;
  if (width % WIDE<T> != 0) {
    for (int k = lane; k < width; k += WARP) {
      const float a = widen(first[k]), b = widen(second[k]);
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        if (r >= rows) break;
        const float value = widen(x[size_t(r) * width + k]);
        sums[r][0] += value * a;
        sums[r][1] += value * b;
      }
    }
    return;
  }
  constexpr int STRIDE = WARP * WIDE<T>;
  for (int start = lane * WIDE<T>; start < width; start += AHEAD * STRIDE) {
    Wide<T> a[AHEAD], b[AHEAD];
#pragma unroll
    for (int j = 0; j < AHEAD; j++) {
      const int k = start + j * STRIDE;
      if (k < width) {
        a[j] = load_once(first + k);
        b[j] = load_once(second + k);
      }
    }
#pragma unroll
    for (int j = 0; j < AHEAD; j++) {
      const int k = start + j * STRIDE;
      if (k >= width) break;
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        if (r >= rows) break;
        const Wide<T> values = load_wide(x + size_t(r) * width + k);
#pragma unroll
        for (int i = 0; i < WIDE<T>; i++) {
          const float value = widen(values.at[i]);
          sums[r][0] += value * widen(a[j].at[i]);
          sums[r][1] += value * widen(b[j].at[i]);
        }
      }
    }
  }
}

template <class T, class Out, int ROWS>
__device__ void few_rows(const T* x, const T* weight, const float* bias, Out* y, int rows, int outs, int width) {
  const int out = (blockIdx.x * LINEAR_WARPS + threadIdx.x / WARP) * 2;
  if (out >= outs) return;
  // where the number of outputs is odd, the last one is computed twice
  const int next = out + 1 < outs ? out + 1 : out;
  float sums[ROWS][2];
  two_rows<T, ROWS>(x, weight + size_t(out) * width, weight + size_t(next) * width, rows, width, sums);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    if (r >= rows) break;
    const float a = warp_sum(sums[r][0]), b = warp_sum(sums[r][1]);
    if (threadIdx.x % WARP == 0) {
      y[size_t(r) * outs + out] = narrow<Out>(bias ? a + bias[out] : a);
      y[size_t(r) * outs + next] = narrow<Out>(bias ? b + bias[next] : b);
    }
  }
}

template <class T, int ACTIVATION, int ROWS>
__device__ void gated_few_rows(const T* x, const T* gate, const float* gate_bias, const T* up, const float* up_bias, T* y,
                               int rows, int outs, int width) {
  const int out = blockIdx.x * LINEAR_WARPS + threadIdx.x / WARP;
  if (out >= outs) return;
  float sums[ROWS][2];
  two_rows<T, ROWS>(x, gate + size_t(out) * width, up + size_t(out) * width, rows, width, sums);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    if (r >= rows) break;
    float a = warp_sum(sums[r][0]), b = warp_sum(sums[r][1]);
    if (threadIdx.x % WARP == 0) {
      a += gate_bias ? gate_bias[out] : 0.0f;
      b += up_bias ? up_bias[out] : 0.0f;
      y[size_t(r) * outs + out] = narrow<T>(activated(a, ACTIVATION) * b);
    }
  }
}

#define LINEAR(T, ROWS)                                                                                           \
  KERNEL(linear_##T##_##ROWS, LINEAR_THREADS,                                                                     \
         (const T* x, const T* weight, const float* bias, T* y, int rows, int outs, int width)) {                 \
    few_rows<T, T, ROWS>(x, weight, bias, y, rows, outs, width);                                                  \
  }                                                                                                               \
  KERNEL(logits_##T##_##ROWS, LINEAR_THREADS,                                                                     \
         (const T* x, const T* weight, const float* bias, float* y, int rows, int outs, int width)) {             \
    few_rows<T, float, ROWS>(x, weight, bias, y, rows, outs, width);                                              \
  }
#define GATED(T, NAME, ACTIVATION, ROWS)                                                                          \
  KERNEL(gated_##NAME##_##T##_##ROWS, LINEAR_THREADS,                                                             \
         (const T* x, const T* gate, const float* gate_bias, const T* up, const float* up_bias, T* y, int rows,   \
          int outs, int width)) {                                                                                 \
    gated_few_rows<T, ACTIVATION, ROWS>(x, gate, gate_bias, up, up_bias, y, rows, outs, width);                   \
  }
#define BOTH(T, ROWS) LINEAR(T, ROWS) GATED(T, silu, SILU, ROWS) GATED(T, gelu, GELU_TANH, ROWS)
#define LINEARS(T) BOTH(T, 1) BOTH(T, 2) BOTH(T, 4) BOTH(T, 8)
LINEARS(f32)
LINEARS(f16)
LINEARS(bf16)
