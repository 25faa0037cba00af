// Products with quantised weights: of few rows from the blocks themselves, of many by way of the weight's numbers.
//
// y = x W^T + b, and act(x G^T + g) * (x U^T + u), for x T [rows, width], W in planes of blocks (blocks.cuh) that stand for
// [outs, width], b f32 [outs] or none, and y [rows, outs] in T or, for logits, in f32.
//
// A block takes 16 outputs and up to eight rows; its eight warps take every eighth chunk of 128 columns each. Quants are small
// whole numbers, exact in bf16 and f16, and so a tensor core multiplies 16 x 16 of them with eight rows of x at once
// (m16n8k16, f32 sums); the sums of a sub-block are scaled in f32 afterwards. What a format takes away of each sub-block is
// a multiple of the sum of its x, which a product with ones gives. So a weight is read and unpacked once for eight rows, x is
// never rounded below its own type, and a weight's only rounding is that of its scales. The warps' parts are added up in their
// order. A row's bits depend on no other row: columns of a fragment do not meet, and no order depends on the number of rows.
// Rows beyond eight are more blocks, beside each other, which find the weights in the L2 cache.
//
// What to expect: a decode step of one row should be bound by memory. A lane has 32 (4 bits) to 64 bytes (8 bits) under way
// while it computes the chunk before, and a multiprocessor at least 16 warps: 16 to 32 KB, and 18 KB (H100, 3.35 TB/s) to 25
// KB (H200, 4.8 TB/s) cover 700 ns. Accesses are of 16 bytes, 64 in a row of W. Unpacking four bits takes about three
// instructions a weight, scales included, and an H200 brings 37 weights of q4_k a clock to a multiprocessor that issues 128:
// some 85 % of what it can, so q4_k may stay 10 to 20 % below its roofline there, and reach it on smaller chips; q8_0 has half
// as many weights a byte. Groups of rows after the first cost what they compute: about 0.85 of that time each on an H200.
//
// f32 activations take plain sums, a warp an output and a row. More rows than a few take the numbers of W, written in T by
// `widen`, to the product of matrices.
//
// Limits: a width is a whole number of blocks; a weight has less than 2^32 bytes.
#include "blocks.cuh"

constexpr int QUANTISED_WARPS = 8;
constexpr int QUANTISED_THREADS = QUANTISED_WARPS * WARP;
// of a multiprocessor, at least
constexpr int QUANTISED_BLOCKS = 2;
constexpr int QUANTISED_OUTS = 16;
constexpr int QUANTISED_ROWS = 8;

// x of group s for lane c, as the second factor of two steps of 16: four pairs in the order of blocks.cuh.
template <class F, class T>
__device__ inline void load_group(u32 (&b)[4], const T* row, int chunk, int s, int c) {
  if (row == nullptr) {
    b[0] = b[1] = b[2] = b[3] = 0;
  } else if constexpr (F::SHARED == 32) {
    const Words<4> all = *reinterpret_cast<const Words<4>*>(row + column<F>(chunk, s, c, 0));
#pragma unroll
    for (int i = 0; i < 4; i++) b[i] = all.at[i];
  } else {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const Words<2> two = *reinterpret_cast<const Words<2>*>(row + column<F>(chunk, s, c, half));
      b[2 * half] = two.at[0];
      b[2 * half + 1] = two.at[1];
    }
  }
}

template <class T>
__device__ inline void multiply_step(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  const u32 b[2] = {b0, b1};
  mma<T>(d, a, b);
}

// Adds the products of a chunk. part[t][i]: rows g + 8 i of weight t.
template <class F, class T, int WEIGHTS>
__device__ inline void add_chunk(float (&sums)[WEIGHTS][4], const F (&part)[WEIGHTS][2], const T* row, int chunk, int groups,
                                 int c) {
  constexpr int STEPS = F::SHARED / 16;
  const u32 one = packed<T>(1.0f, 1.0f), ones[4] = {one, one, one, one};
#pragma unroll
  for (int s = 0; s < GROUPS; s++) {
    if (s >= groups) break;
    u32 b[4];
    load_group<F>(b, row, chunk, s, c);
#pragma unroll
    for (int first = 0; first < 2; first += STEPS) {
      const int shared = STEPS == 2 ? s : 2 * s + first;
      float all[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if constexpr (F::LESS) {
#pragma unroll
        for (int step = first; step < first + STEPS; step++) multiply_step<T>(all, ones, b[2 * step], b[2 * step + 1]);
      }
#pragma unroll
      for (int t = 0; t < WEIGHTS; t++) {
        float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int step = first; step < first + STEPS; step++) {
          u32 a[4];
#pragma unroll
          for (int i = 0; i < 4; i++) a[i] = part[t][i % 2].template pair<T>(s, 2 * step + i / 2);
          multiply_step<T>(d, a, b[2 * step], b[2 * step + 1]);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const float scale = part[t][i].scale(shared);
          sums[t][2 * i] += scale * d[2 * i];
          sums[t][2 * i + 1] += scale * d[2 * i + 1];
          if constexpr (F::LESS) {
            const float less = part[t][i].less(shared);
            sums[t][2 * i] -= less * all[2 * i];
            sums[t][2 * i + 1] -= less * all[2 * i + 1];
          }
        }
      }
    }
  }
}

template <class F, int WEIGHTS>
__device__ inline void load_chunk(F (&part)[WEIGHTS][2], const typename F::Row (&rows)[WEIGHTS][2], int chunk, int c,
                                  int width) {
  const int groups = groups_of(width, chunk);
#pragma unroll
  for (int t = 0; t < WEIGHTS; t++) {
    part[t][0].load(rows[t][0], chunk, groups, c, width);
    part[t][1].load(rows[t][1], chunk, groups, c, width);
  }
}

// The warps' parts of 16 outputs of each weight for eight rows: [row * 16 + output].
template <int WEIGHTS>
using Parts = float[QUANTISED_WARPS][WEIGHTS][QUANTISED_ROWS * QUANTISED_OUTS];

template <class F, class T, int WEIGHTS>
__device__ void sixteen_outs(Parts<WEIGHTS>& parts, const T* x, const u8* const (&weights)[WEIGHTS], int rows, int outs,
                             int width) {
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
  const int row = blockIdx.x * QUANTISED_ROWS + g, first = blockIdx.y * QUANTISED_OUTS + g;
  const T* const own = row < rows ? x + size_t(row) * width : nullptr;
  float sums[WEIGHTS][4];
  typename F::Row of[WEIGHTS][2];
#pragma unroll
  for (int t = 0; t < WEIGHTS; t++) {
    sums[t][0] = sums[t][1] = sums[t][2] = sums[t][3] = 0.0f;
    // where there are no more outputs, the last one is computed again
    of[t][0].find(weights[t], outs, width, min(first, outs - 1));
    of[t][1].find(weights[t], outs, width, min(first + 8, outs - 1));
  }
  const int chunks = chunks_of(width);
  F now[WEIGHTS][2], next[WEIGHTS][2];
  if (warp < chunks) load_chunk<F, WEIGHTS>(now, of, warp, c, width);
  for (int chunk = warp; chunk < chunks; chunk += QUANTISED_WARPS) {
    // under way while this chunk is computed
    const int after = min(chunk + QUANTISED_WARPS, chunks - 1);
    load_chunk<F, WEIGHTS>(next, of, after, c, width);
    add_chunk<F, T, WEIGHTS>(sums, now, own, chunk, groups_of(width, chunk), c);
#pragma unroll
    for (int t = 0; t < WEIGHTS; t++) {
      now[t][0] = next[t][0];
      now[t][1] = next[t][1];
    }
  }
#pragma unroll
  for (int t = 0; t < WEIGHTS; t++) {
#pragma unroll
    for (int i = 0; i < 4; i++) parts[warp][t][(2 * c + i % 2) * QUANTISED_OUTS + g + 8 * (i / 2)] = sums[t][i];
  }
  __syncthreads();
}

template <int WEIGHTS>
__device__ inline float sum_of(const Parts<WEIGHTS>& parts, int t, int i) {
  float sum = parts[0][t][i];
#pragma unroll
  for (int warp = 1; warp < QUANTISED_WARPS; warp++) sum += parts[warp][t][i];
  return sum;
}

// `wide` says that y is f32.
template <class F, class T>
__device__ void quantised_linear(const T* x, const u8* weight, const float* bias, void* y, int rows, int outs, int width,
                                 int wide) {
  __shared__ Parts<1> parts;
  const u8* const weights[1] = {weight};
  sixteen_outs<F, T, 1>(parts, x, weights, rows, outs, width);
  const int i = threadIdx.x, row = blockIdx.x * QUANTISED_ROWS + i / QUANTISED_OUTS;
  const int out = blockIdx.y * QUANTISED_OUTS + i % QUANTISED_OUTS;
  if (i >= QUANTISED_ROWS * QUANTISED_OUTS || row >= rows || out >= outs) return;
  const float sum = sum_of<1>(parts, 0, i) + (bias ? bias[out] : 0.0f);
  const size_t at = size_t(row) * outs + out;
  if (wide) {
    static_cast<float*>(y)[at] = sum;
  } else {
    static_cast<T*>(y)[at] = narrow<T>(sum);
  }
}

template <class F, class T>
__device__ void quantised_gated(const T* x, const u8* gate, const float* gate_bias, const u8* up, const float* up_bias, T* y,
                                int rows, int outs, int width, int activation) {
  __shared__ Parts<2> parts;
  const u8* const weights[2] = {gate, up};
  sixteen_outs<F, T, 2>(parts, x, weights, rows, outs, width);
  const int i = threadIdx.x, row = blockIdx.x * QUANTISED_ROWS + i / QUANTISED_OUTS;
  const int out = blockIdx.y * QUANTISED_OUTS + i % QUANTISED_OUTS;
  if (i >= QUANTISED_ROWS * QUANTISED_OUTS || row >= rows || out >= outs) return;
  const float a = sum_of<2>(parts, 0, i) + (gate_bias ? gate_bias[out] : 0.0f);
  const float b = sum_of<2>(parts, 1, i) + (up_bias ? up_bias[out] : 0.0f);
  y[size_t(row) * outs + out] = narrow<T>(activated(a, activation) * b);
}

// A warp an output of a row.
template <class F>
__device__ void quantised_linear_f32(const float* x, const u8* weight, const float* bias, float* y, int outs, int width) {
  const int row = blockIdx.x, out = blockIdx.y * QUANTISED_WARPS + threadIdx.x / WARP;
  if (out >= outs) return;
  const float sum = block_product<F>(x + size_t(row) * width, weight, out, outs, width);
  if (threadIdx.x % WARP == 0) y[size_t(row) * outs + out] = bias ? sum + bias[out] : sum;
}

// Numbers of row `row` of a weight, each times `factor`, by a whole block.
template <class F, class T>
__device__ void widen_row(const u8* weight, T* to, int row, int outs, int width, float factor) {
  typename F::Row from;
  from.find(weight, outs, width, row);
  for (int i = threadIdx.x; i < 4 * chunks_of(width); i += QUANTISED_THREADS) {
    const int chunk = i / 4, c = i % 4, groups = groups_of(width, chunk);
    F part;
    part.load(from, chunk, groups, c, width);
#pragma unroll
    for (int s = 0; s < GROUPS; s++) {
      if (s >= groups) break;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float values[4];
        four_of(part, s, half, values);
        Four<T> out;
#pragma unroll
        for (int j = 0; j < 4; j++) out.at[j] = narrow<T>(values[j] * factor);
        *reinterpret_cast<Four<T>*>(to + column<F>(chunk, s, c, half)) = out;
      }
    }
  }
}

#define QUANTISED_PRODUCTS(F, T)                                                                                     \
  KERNEL_OF_BLOCKS(linear_##F##_##T, QUANTISED_THREADS, QUANTISED_BLOCKS,                                            \
         (const T* x, const u8* weight, const float* bias, void* y, int rows, int outs, int width, int wide)) {      \
    quantised_linear<F, T>(x, weight, bias, y, rows, outs, width, wide);                                             \
  }                                                                                                                  \
  KERNEL_OF_BLOCKS(gated_##F##_##T, QUANTISED_THREADS, QUANTISED_BLOCKS,                                             \
         (const T* x, const u8* gate, const float* gate_bias, const u8* up, const float* up_bias, T* y, int rows,    \
          int outs, int width, int activation)) {                                                                    \
    quantised_gated<F, T>(x, gate, gate_bias, up, up_bias, y, rows, outs, width, activation);                        \
  }
// rows `first` and those that follow
#define QUANTISED_NUMBERS(F, T)                                                                                      \
  KERNEL(widen_##F##_##T, QUANTISED_THREADS, (const u8* weight, T* numbers, int first, int outs, int width)) {       \
    widen_row<F, T>(weight, numbers + size_t(blockIdx.x) * width, first + blockIdx.x, outs, width, 1.0f);            \
  }
#define QUANTISED(F)                                                                                                 \
  QUANTISED_PRODUCTS(F, f16)                                                                                         \
  QUANTISED_PRODUCTS(F, bf16)                                                                                        \
  QUANTISED_NUMBERS(F, f16)                                                                                          \
  QUANTISED_NUMBERS(F, bf16)                                                                                         \
  QUANTISED_NUMBERS(F, f32)                                                                                          \
  KERNEL(linear_##F##_f32, QUANTISED_THREADS,                                                                        \
         (const float* x, const u8* weight, const float* bias, float* y, int outs, int width)) {                     \
    quantised_linear_f32<F>(x, weight, bias, y, outs, width);                                                        \
  }                                                                                                                  \
  KERNEL(embedding_##F, QUANTISED_THREADS,                                                                           \
         (const u8* table, const u32* ids, float* out, int vocab, int width, float scale)) {                         \
    widen_row<F, f32>(table, out + size_t(blockIdx.x) * width, ids[blockIdx.x], vocab, width, scale);                \
  }
FOR_EACH_FORMAT(QUANTISED)
