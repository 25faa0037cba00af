// What treats each element, or each row, by itself: gathering rows, the product of a gated MLP (Shazeer,
// 2020), biases, soft caps.
//
// Layout: row-major. Rows are gathered one block a row; the others take one thread an element. Bound by memory.
#include "common.cuh"

constexpr int ELEMENT_THREADS = 256;

__device__ inline size_t element() { return size_t(blockIdx.x) * ELEMENT_THREADS + threadIdx.x; }

// Rows of `table` T [vocab, width] for ids, widened into the residual stream and scaled.
template <class T>
__device__ void embedding(const T* table, const u32* ids, float* out, int width, float scale) {
  const T* row = table + size_t(ids[blockIdx.x]) * width;
  out += size_t(blockIdx.x) * width;
  for (int i = threadIdx.x; i < width; i += ELEMENT_THREADS) out[i] = widen(row[i]) * scale;
}

template <class T>
__device__ void select_rows(const T* x, const u32* rows, T* out, int width) {
  const T* row = x + size_t(rows[blockIdx.x]) * width;
  out += size_t(blockIdx.x) * width;
  for (int i = threadIdx.x; i < width; i += ELEMENT_THREADS) out[i] = row[i];
}

KERNEL(clear, ELEMENT_THREADS, (u32 * numbers, size_t n)) {
  const size_t i = element();
  if (i < n) numbers[i] = 0;
}

KERNEL(softcap, ELEMENT_THREADS, (float* x, float cap, size_t n)) {
  const size_t i = element();
  if (i < n) x[i] = cap * tanhf(x[i] / cap);
}

#define ELEMENTWISE(T)                                                                                         \
  KERNEL(embedding_##T, ELEMENT_THREADS, (const T* table, const u32* ids, float* out, int width, float scale)) { \
    embedding<T>(table, ids, out, width, scale);                                                               \
  }                                                                                                            \
  KERNEL(select_rows_##T, ELEMENT_THREADS, (const T* x, const u32* rows, T* out, int width)) {                 \
    select_rows<T>(x, rows, out, width);                                                                       \
  }                                                                                                            \
  KERNEL(gate_mul_##T, ELEMENT_THREADS, (T * gate, const T* up, size_t n, int activation)) {                   \
    const size_t i = element();                                                                                \
    if (i < n) gate[i] = narrow<T>(activated(widen(gate[i]), activation) * widen(up[i]));                      \
  }                                                                                                            \
  KERNEL(add_bias_##T, ELEMENT_THREADS, (T * y, const float* bias, int width, size_t n)) {                     \
    const size_t i = element();                                                                                \
    if (i < n) y[i] = narrow<T>(widen(y[i]) + bias[i % width]);                                                \
  }
ELEMENTWISE(f32)
ELEMENTWISE(f16)
ELEMENTWISE(bf16)
