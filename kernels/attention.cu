// Attention of single rows over the paged cache: a decode step, and every shape that prefill.cu does not take.
//
// Layout: q and out T [rows, heads, head_dim]; keys and values of one layer T [slots, kv_heads, head_dim]. Entry i of
// the lists is for row which[i]: it sees the tokens from max(0, visible[i] - window) on and below visible[i], and token t
// of them lies in slot tables[starts[i] + t / block_size] * block_size + t % block_size. A row that sees nothing gives
// zeros.
//
// A block takes one row, one key-value head and up to HEADS of the query heads that share it (Ainslie et al., 2023), so
// that each key and value is read once for all of them; and one of several ranges of the context (split-KV: Dao et al.,
// Flash-Decoding, 2023). LANES lanes hold a token's head, 16 bytes each, and two or four tokens are under way at once.
// Softmax is online (Milakov and Gimelshein, 2018). The last block of a row to finish adds the ranges up, in their
// order. How a context is cut depends on its length alone, so a row's result does not depend on the batch.
//
// Limits: head_dim <= LANES * 16 bytes. Scratch: partial f32 [entries, heads, MOST_SPLITS, head_dim + 2] and arrived
// u32 [entries, gridDim.x], which is zero before and after.
#include "common.cuh"

constexpr int ATTENTION_THREADS = 128;
constexpr int MOST_SPLITS = 16;
constexpr int LEAST_RANGE = 64;

struct Range {
  int first, last, used;
};

// The part of a row's context that a block sees. `used` ranges are not empty.
__device__ inline Range range_of(int begin, int end, int split) {
  const int n = end - begin;
  const int size = max((n + MOST_SPLITS - 1) / MOST_SPLITS, LEAST_RANGE);
  const int first = begin + split * size;
  return {first, min(first + size, end), (n + size - 1) / size};
}

__device__ inline float capped(float score, float softcap) {
  return softcap > 0.0f ? softcap * tanhf(score / softcap) : score;
}

template <class T>
__device__ Wide<T> load_part(const T* head, int d, int head_dim) {
  if (head_dim % WIDE<T> == 0 && d < head_dim) return load_wide(head + d);
  Wide<T> out;
#pragma unroll
  for (int i = 0; i < WIDE<T>; i++) out.at[i] = d + i < head_dim ? head[d + i] : narrow<T>(0.0f);
  return out;
}

template <class T, int LANES, int HEADS>
__device__ void paged_attention(const T* q, const T* keys, const T* values, const u32* tables, const u32* which,
                                const u32* starts, const u32* visible, T* out, float* partial, u32* arrived, int heads, int kv_heads,
                                int head_dim, int block_size, float scale, float softcap, int window) {
  constexpr int SUBS = ATTENTION_THREADS / LANES;  // tokens side by side
  constexpr int TILE = HEADS == 1 ? 4 : 2;         // and one after the other: more would cost registers that warps need
  constexpr int V = WIDE<T>;
  DYNAMIC_SHARED(shared);
  __shared__ u32 ticket;
  const int group = heads / kv_heads, packs = (group + HEADS - 1) / HEADS;
  const int kv_head = blockIdx.x / packs, pack = blockIdx.x % packs;
  const int first_head = kv_head * group + pack * HEADS, count = min(HEADS, group - pack * HEADS);
  const int entry = blockIdx.y, row = which[entry];
  const int sub = threadIdx.x / LANES, d = threadIdx.x % LANES * V;
  T* const result = out + (size_t(row) * heads + first_head) * head_dim;

  const int end = int(visible[entry]), begin = window > 0 && end > window ? end - window : 0;
  if (end == 0) {
    if (blockIdx.z == 0) {
      for (int i = threadIdx.x; i < count * head_dim; i += ATTENTION_THREADS) result[i] = narrow<T>(0.0f);
    }
    return;
  }
  const Range range = range_of(begin, end, blockIdx.z);
  if (range.first >= range.last) return;
  const u32* table = tables + starts[entry];

  float query[HEADS][V], sums[HEADS][V], highest[HEADS], total[HEADS];
#pragma unroll
  for (int h = 0; h < HEADS; h++) {
    highest[h] = -INFINITY;
    total[h] = 0.0f;
    const Wide<T> part = load_part(q + (size_t(row) * heads + first_head + min(h, count - 1)) * head_dim, d, head_dim);
#pragma unroll
    for (int i = 0; i < V; i++) {
      query[h][i] = widen(part.at[i]) * scale;
      sums[h][i] = 0.0f;
    }
  }

  for (int base = range.first; base < range.last; base += SUBS * TILE) {
    Wide<T> key[TILE], value[TILE];
#pragma unroll
    for (int j = 0; j < TILE; j++) {
      // beyond the end: the last token once more, whose score is then left out
      const int t = min(base + j * SUBS + sub, range.last - 1);
      const size_t slot = size_t(table[t / block_size]) * block_size + t % block_size;
      const size_t at = (slot * kv_heads + kv_head) * head_dim;
      key[j] = load_part(keys + at, d, head_dim);
      value[j] = load_part(values + at, d, head_dim);
    }
    float score[TILE][HEADS];
#pragma unroll
    for (int j = 0; j < TILE; j++) {
      const bool there = base + j * SUBS + sub < range.last;
#pragma unroll
      for (int h = 0; h < HEADS; h++) {
        float s = 0.0f;
#pragma unroll
        for (int i = 0; i < V; i++) s += query[h][i] * widen(key[j].at[i]);
#pragma unroll
        for (int offset = LANES / 2; offset > 0; offset /= 2) s += __shfl_xor_sync(ALL_LANES, s, offset);
        score[j][h] = there ? capped(s, softcap) : -INFINITY;
      }
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
      float most = highest[h];
#pragma unroll
      for (int j = 0; j < TILE; j++) most = fmaxf(most, score[j][h]);
      if (most == -INFINITY) continue;  // nothing here yet
      const float shrink = __expf(highest[h] - most);
      highest[h] = most;
      total[h] *= shrink;
#pragma unroll
      for (int i = 0; i < V; i++) sums[h][i] *= shrink;
#pragma unroll
      for (int j = 0; j < TILE; j++) {
        const float share = __expf(score[j][h] - most);
        total[h] += share;
#pragma unroll
        for (int i = 0; i < V; i++) sums[h][i] += share * widen(value[j].at[i]);
      }
    }
  }

  // the tokens' sums of all SUBS, brought together
  float* const tops = reinterpret_cast<float*>(shared);  // [HEADS, SUBS]
  float* const totals = tops + HEADS * SUBS;              // [HEADS, SUBS]
  float* const parts = totals + HEADS * SUBS;             // [SUBS, HEADS, head_dim]
#pragma unroll
  for (int h = 0; h < HEADS; h++) {
    if (d == 0) {
      tops[h * SUBS + sub] = highest[h];
      totals[h * SUBS + sub] = total[h];
    }
#pragma unroll
    for (int i = 0; i < V; i++) {
      if (d + i < head_dim) parts[(sub * HEADS + h) * head_dim + d + i] = sums[h][i];
    }
  }
  __syncthreads();
  const int stride = head_dim + 2;
  for (int i = threadIdx.x; i < count * head_dim; i += ATTENTION_THREADS) {
    const int h = i / head_dim, e = i % head_dim;
    float most = -INFINITY, all = 0.0f, sum = 0.0f;
    for (int s = 0; s < SUBS; s++) most = fmaxf(most, tops[h * SUBS + s]);
    for (int s = 0; s < SUBS; s++) {
      const float share = __expf(tops[h * SUBS + s] - most);
      all += totals[h * SUBS + s] * share;
      sum += parts[(s * HEADS + h) * head_dim + e] * share;
    }
    if (range.used == 1) {
      result[i] = narrow<T>(sum / all);
    } else {
      float* to = partial + ((size_t(entry) * heads + first_head + h) * MOST_SPLITS + blockIdx.z) * stride;
      to[e] = sum;
      if (e == 0) {
        to[head_dim] = most;
        to[head_dim + 1] = all;
      }
    }
  }
  if (range.used == 1) return;

  __threadfence();  // what this block wrote is seen before its arrival is
  __syncthreads();
  u32* const counter = arrived + size_t(entry) * gridDim.x + blockIdx.x;
  if (threadIdx.x == 0) ticket = atomicAdd(counter, 1u);
  __syncthreads();
  if (ticket != u32(range.used) - 1) return;
  if (threadIdx.x == 0) *counter = 0;
  __threadfence();
  for (int i = threadIdx.x; i < count * head_dim; i += ATTENTION_THREADS) {
    const int h = i / head_dim, e = i % head_dim;
    const volatile float* from = partial + (size_t(entry) * heads + first_head + h) * MOST_SPLITS * stride;
    float most = -INFINITY, all = 0.0f, sum = 0.0f;
    for (int s = 0; s < range.used; s++) most = fmaxf(most, from[s * stride + head_dim]);
    for (int s = 0; s < range.used; s++) {
      const float share = __expf(from[s * stride + head_dim] - most);
      all += from[s * stride + head_dim + 1] * share;
      sum += from[s * stride + e] * share;
    }
    result[i] = narrow<T>(sum / all);
  }
}

#define ATTENTION(T, LANES, HEADS)                                                                                  \
  KERNEL(paged_attention_##T##_##LANES##_##HEADS, ATTENTION_THREADS,                                                \
         (const T* q, const T* keys, const T* values, const u32* tables, const u32* which, const u32* starts,       \
          const u32* visible, T* out, float* partial, u32* arrived, int heads, int kv_heads, int head_dim, int block_size, float scale, \
          float softcap, int window)) {                                                                             \
    paged_attention<T, LANES, HEADS>(q, keys, values, tables, which, starts, visible, out, partial, arrived, heads, \
                                     kv_heads, head_dim, block_size, scale, softcap, window);                       \
  }
#define ATTENTIONS(T, LANES) ATTENTION(T, LANES, 1) ATTENTION(T, LANES, 4) ATTENTION(T, LANES, 8)
#define ALL_ATTENTIONS(T) ATTENTIONS(T, 8) ATTENTIONS(T, 16) ATTENTIONS(T, 32)
ALL_ATTENTIONS(f32)
ALL_ATTENTIONS(f16)
ALL_ATTENTIONS(bf16)
