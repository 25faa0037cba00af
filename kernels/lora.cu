// What the rows' adapters add to a linear layer: y += scale * (x D^T) U^T (LoRA: Hu et al., 2021), for rows of several
// adapters, and of none, in one launch (the shrink and expand of Punica, Chen et al., 2023).
//
// Layout: x T [rows, width]; slots [rows], the adapter of each row or NO_ADAPTER; a table of adapters by slot, each with D
// T [rank, width] and U T [outs, rank]; h f32 [rows, stride] between the two, stride being the highest rank; y T [rows,
// outs]. A block takes 8 consecutive rows and treats those of one adapter that are neighbours together, so that what it
// reads of D and U serves all of them: the rows of a prompt are neighbours. A warp takes one row of D, a thread one row of
// U. Sums are in f32, each in an order that depends on the row and its adapter only.
//
// Limits: ranks up to 512. Bound by the bytes of D and U, a few percent of the layer's own; a block whose rows have no
// adapter returns at once. A batch whose every row has another adapter reads each of them once.
#include "common.cuh"

constexpr int LORA_WARPS = 8;
constexpr int LORA_THREADS = LORA_WARPS * WARP;
constexpr int LORA_ROWS = 8;
constexpr int HIGHEST_RANK = 512;
constexpr u32 NO_ADAPTER = ~0u;

struct Adapter {
  const void* down;  // null where the adapter adds nothing to this layer
  const void* up;
  int rank;
  float scale;
};

// The end of the rows from `row` that have its adapter.
__device__ inline int end_of_run(const u32* slots, int row, int end) {
  const u32 slot = slots[row];
  while (row < end && slots[row] == slot) row++;
  return row;
}

// One row of D with up to LORA_ROWS rows of x; each lane a part of the sums.
template <class T>
__device__ void shrunk(const T* x, const T* down, int rows, int width, float (&sums)[LORA_ROWS]) {
  const int lane = threadIdx.x % WARP;
#pragma unroll
  for (int r = 0; r < LORA_ROWS; r++) sums[r] = 0.0f;
  if (width % WIDE<T> != 0) {
    for (int k = lane; k < width; k += WARP) {
      const float d = widen(down[k]);
#pragma unroll
      for (int r = 0; r < LORA_ROWS; r++) {
        if (r >= rows) break;
        sums[r] += widen(x[size_t(r) * width + k]) * d;
      }
    }
    return;
  }
  for (int k = lane * WIDE<T>; k < width; k += WARP * WIDE<T>) {
    const Wide<T> d = load_wide(down + k);
#pragma unroll
    for (int r = 0; r < LORA_ROWS; r++) {
      if (r >= rows) break;
      const Wide<T> values = load_wide(x + size_t(r) * width + k);
#pragma unroll
      for (int i = 0; i < WIDE<T>; i++) sums[r] += widen(values.at[i]) * widen(d.at[i]);
    }
  }
}

// h = scale * x D^T; a grid of [rows / 8, stride / warps].
template <class T>
__device__ void shrink(const T* x, const u32* slots, const Adapter* adapters, float* h, int rows, int width,
                       int stride) {
  const int rank = blockIdx.y * LORA_WARPS + threadIdx.x / WARP;
  int row = blockIdx.x * LORA_ROWS;
  const int end = min(row + LORA_ROWS, rows);
  while (row < end) {
    const int next = end_of_run(slots, row, end);
    if (slots[row] != NO_ADAPTER) {
      const Adapter adapter = adapters[slots[row]];
      if (adapter.down && rank < adapter.rank) {
        float sums[LORA_ROWS];
        const T* down = static_cast<const T*>(adapter.down) + size_t(rank) * width;
        shrunk<T>(x + size_t(row) * width, down, next - row, width, sums);
#pragma unroll
        for (int r = 0; r < LORA_ROWS; r++) {
          if (r >= next - row) break;
          const float sum = warp_sum(sums[r]);
          if (threadIdx.x % WARP == 0) h[size_t(row + r) * stride + rank] = adapter.scale * sum;
        }
      }
    }
    row = next;
  }
}

// y += h U^T; a grid of [rows / 8, outs / threads].
template <class T>
__device__ void expand(const float* h, const u32* slots, const Adapter* adapters, T* y, int rows, int outs,
                       int stride) {
  __shared__ float between[LORA_ROWS][HIGHEST_RANK];
  const int out = blockIdx.y * LORA_THREADS + threadIdx.x;
  int row = blockIdx.x * LORA_ROWS;
  const int end = min(row + LORA_ROWS, rows);
  while (row < end) {
    const int next = end_of_run(slots, row, end);
    const Adapter adapter = slots[row] == NO_ADAPTER ? Adapter{} : adapters[slots[row]];
    // the same for all threads of the block
    if (adapter.up) {
      __syncthreads();  // of the run before
      for (int i = threadIdx.x; i < (next - row) * adapter.rank; i += LORA_THREADS) {
        const int r = i / adapter.rank, j = i % adapter.rank;
        between[r][j] = h[size_t(row + r) * stride + j];
      }
      __syncthreads();
      if (out < outs) {
        const T* up = static_cast<const T*>(adapter.up) + size_t(out) * adapter.rank;
        float sums[LORA_ROWS] = {};
        for (int j = 0; j < adapter.rank; j++) {
          const float u = widen(up[j]);
#pragma unroll
          for (int r = 0; r < LORA_ROWS; r++) sums[r] += between[r][j] * u;
        }
#pragma unroll
        for (int r = 0; r < LORA_ROWS; r++) {
          if (r >= next - row) break;
          T* to = y + size_t(row + r) * outs + out;
          *to = narrow<T>(widen(*to) + sums[r]);
        }
      }
    }
    row = next;
  }
}

#define LORA(T)                                                                                                       \
  KERNEL(lora_shrink_##T, LORA_THREADS,                                                                               \
         (const T* x, const u32* slots, const Adapter* adapters, float* h, int rows, int width, int stride)) {        \
    shrink<T>(x, slots, adapters, h, rows, width, stride);                                                            \
  }                                                                                                                   \
  KERNEL(lora_expand_##T, LORA_THREADS,                                                                               \
         (const float* h, const u32* slots, const Adapter* adapters, T* y, int rows, int outs, int stride)) {         \
    expand<T>(h, slots, adapters, y, rows, outs, stride);                                                             \
  }
LORA(f32)
LORA(f16)
LORA(bf16)
