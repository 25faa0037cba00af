// Root-mean-square normalisation (Zhang and Sennrich, 2019): out = x / sqrt(mean(x^2) + eps) * gain, row by row.
//
// Layout: x f32 [rows, width], the residual stream; y T [rows, width]; gain f32 [width]; out T [rows, width].
// `rms_norm_heads` works in the place of T [heads, width]: the heads of queries or keys, or what a layer gives.
// One block a row, or one warp where rows are as short as a head is; its sum in a fixed order: a row's result does not
// depend on the others. The second pass over x finds it in the caches. Bound by memory: `add_rms_norm` reads x and y once and writes x and out once.
#include "common.cuh"

constexpr int NORM_THREADS = 256;

template <class In, class T>
__device__ void scale_row(const In* x, const float* gain, T* out, int width, float squares, float eps) {
  const float scale = rsqrtf(squares / float(width) + eps);
  for (int i = threadIdx.x; i < width; i += NORM_THREADS) out[i] = narrow<T>(widen(x[i]) * scale * gain[i]);
}

// `out` may be `x`: a thread reads and writes the same elements.
template <class In, class T>
__device__ void rms_norm(const In* x, const float* gain, T* out, int width, float eps) {
  const size_t row = size_t(blockIdx.x) * width;
  float squares = 0.0f;
  for (int i = threadIdx.x; i < width; i += NORM_THREADS) squares += widen(x[row + i]) * widen(x[row + i]);
  scale_row(x + row, gain, out + row, width, block_sum(squares), eps);
}

// x += y first: the block before gives its result to the residual stream.
template <class T>
__device__ void add_rms_norm(float* x, const T* y, const float* gain, T* out, int width, float eps) {
  const size_t row = size_t(blockIdx.x) * width;
  float squares = 0.0f;
  for (int i = threadIdx.x; i < width; i += NORM_THREADS) {
    const float sum = x[row + i] + widen(y[row + i]);
    x[row + i] = sum;  // read again by this very thread
    squares += sum * sum;
  }
  scale_row(x + row, gain, out + row, width, block_sum(squares), eps);
}

// In its place. A warp a head.
template <class T>
__device__ void rms_norm_heads(T* x, const float* gain, int heads, int width, float eps) {
  const int head = blockIdx.x * (NORM_THREADS / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
  if (head >= heads) return;
  x += size_t(head) * width;
  float squares = 0.0f;
  for (int i = lane; i < width; i += WARP) squares += widen(x[i]) * widen(x[i]);
  const float scale = rsqrtf(warp_sum(squares) / float(width) + eps);
  for (int i = lane; i < width; i += WARP) x[i] = narrow<T>(widen(x[i]) * scale * gain[i]);
}

#define NORM(T)                                                                                                    \
  KERNEL(rms_norm_##T, NORM_THREADS, (const float* x, const float* gain, T* out, int width, float eps)) {          \
    rms_norm(x, gain, out, width, eps);                                                                            \
  }                                                                                                                \
  KERNEL(add_rms_norm_##T, NORM_THREADS, (float* x, const T* y, const float* gain, T* out, int width, float eps)) { \
    add_rms_norm<T>(x, y, gain, out, width, eps);                                                                  \
  }                                                                                                                \
  KERNEL(rms_norm_heads_##T, NORM_THREADS, (T * x, const float* gain, int heads, int width, float eps)) {          \
    rms_norm_heads<T>(x, gain, heads, width, eps);                                                                 \
  }                                                                                                                \
  KERNEL(rms_norm_rows_##T, NORM_THREADS, (T * x, const float* gain, int width, float eps)) {                      \
    rms_norm(x, gain, x, width, eps);                                                                              \
  }
NORM(f32)
NORM(f16)
NORM(bf16)
