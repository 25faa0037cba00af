// Attention of chunks of prompts over the paged cache, on tensor cores (Dao, FlashAttention-2, 2023).
//
// Layout as in attention.cu; T is f16 or bf16. A block takes one query head and a tile of up to 64 consecutive rows of
// one context: tiles u32 [tiles, 4] name its first row, how many there are, where its block table starts and how many
// tokens its first row sees; each further row sees one more (causal). Keys and values come in tiles of 64 tokens,
// gathered by the block table into shared memory: values are on their way while scores are computed. Each warp takes 16
// rows: S = Q K^T and O = P V by mma.m16n8k16, softmax online in registers, where the accumulators of S are the
// fragments of P as they lie.
//
// Limits: head_dim is HEAD_DIM (32, 64 or 128). Shared memory: 2 tiles of 64 rows, padded by 16 bytes so that the eight
// rows of a matrix lie in different banks.
#include "mma.cuh"

constexpr int PREFILL_WARPS = 4;
constexpr int PREFILL_THREADS = PREFILL_WARPS * WARP;
constexpr int TILE_ROWS = 16 * PREFILL_WARPS;
constexpr int TILE_TOKENS = 64;
constexpr float LOG2_E = 1.4426950408889634f;

// Tokens from `first` on and below `end` into a tile; zeros where there are none, as nothing times garbage is not
// nothing.
template <class T, int HEAD_DIM>
__device__ void gather(T (*tile)[HEAD_DIM + 8], const T* from, const u32* table, int first, int end, int block_size,
                       int kv_heads, int kv_head) {
  constexpr int PARTS = HEAD_DIM / WIDE<T>;
  for (int i = threadIdx.x; i < TILE_TOKENS * PARTS; i += PREFILL_THREADS) {
    const int t = first + i / PARTS, d = i % PARTS * WIDE<T>;
    T* const to = &tile[i / PARTS][d];
    if (t < end) {
      const size_t slot = size_t(table[t / block_size]) * block_size + t % block_size;
      copy_async(to, from + (slot * kv_heads + kv_head) * HEAD_DIM + d);
    } else {
      Wide<T> zeros;
#pragma unroll
      for (int j = 0; j < WIDE<T>; j++) zeros.at[j] = narrow<T>(0.0f);
      store_wide(to, zeros);
    }
  }
}

template <class T, int HEAD_DIM>
__device__ void prefill_attention(const T* q, const T* keys, const T* values, const u32* tables, const u32* tiles, T* out,
                                  int heads, int kv_heads, int block_size, float scale, float softcap, int window) {
  constexpr int K_STEPS = HEAD_DIM / 16, SCORES = TILE_TOKENS / 8, OUTS = HEAD_DIM / 8;
  DYNAMIC_SHARED(shared);
  auto key_tile = reinterpret_cast<T(*)[HEAD_DIM + 8]>(shared);
  auto value_tile = key_tile + TILE_TOKENS;
  const int head = blockIdx.x, kv_head = head / (heads / kv_heads);
  const u32* tile = tiles + blockIdx.y * 4;
  const int first_row = tile[0], rows = tile[1], first_visible = tile[3];
  const u32* table = tables + tile[2];
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4;
  const int end = first_visible + rows - 1;  // what the last row sees
  const int begin = window > 0 && first_visible > window ? first_visible - window : 0;

  // queries by way of the keys' tile into fragments, which stay
  for (int i = threadIdx.x; i < TILE_ROWS * (HEAD_DIM / WIDE<T>); i += PREFILL_THREADS) {
    const int r = i / (HEAD_DIM / WIDE<T>), d = i % (HEAD_DIM / WIDE<T>) * WIDE<T>;
    const size_t row = first_row + min(r, rows - 1);
    store_wide(&key_tile[r][d], load_wide(q + (row * heads + head) * HEAD_DIM + d));
  }
  __syncthreads();
  u32 query[K_STEPS][4];
#pragma unroll
  for (int k = 0; k < K_STEPS; k++) {
    // matrices: rows 0 to 7 and 8 to 15 of the left half, then of the right
    load_matrices(query[k], &key_tile[warp * 16 + lane % 16][k * 16 + lane / 16 * 8]);
  }
  __syncthreads();

  float sums[OUTS][4] = {};
  float highest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
  const int visible[2] = {first_visible + warp * 16 + g, first_visible + warp * 16 + g + 8};

  for (int first = begin / TILE_TOKENS * TILE_TOKENS; first < end; first += TILE_TOKENS) {
    gather<T, HEAD_DIM>(key_tile, keys, table, first, end, block_size, kv_heads, kv_head);
    copies_end();
    gather<T, HEAD_DIM>(value_tile, values, table, first, end, block_size, kv_heads, kv_head);
    copies_end();
    wait_for_copies<1>();
    __syncthreads();

    float scores[SCORES][4] = {};
#pragma unroll
    for (int k = 0; k < K_STEPS; k++) {
#pragma unroll
      for (int n = 0; n < SCORES; n += 2) {
        u32 key[4];  // tokens n * 8 to n * 8 + 7: left and right half of the step; then the next eight
        load_matrices(key, &key_tile[n * 8 + lane / 16 * 8 + lane % 8][k * 16 + lane / 8 % 2 * 8]);
        const u32 low[2] = {key[0], key[1]}, high[2] = {key[2], key[3]};
        mma<T>(scores[n], query[k], low);
        mma<T>(scores[n + 1], query[k], high);
      }
    }
    float most[2] = {highest[0], highest[1]};
#pragma unroll
    for (int n = 0; n < SCORES; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int t = first + n * 8 + c * 2 + i % 2, seen = visible[i / 2];
        float s = scores[n][i] * scale;
        if (softcap > 0.0f) s = softcap * tanhf(s / softcap);
        const bool hidden = t >= seen || (window > 0 && t < seen - window);
        scores[n][i] = hidden ? -INFINITY : s * LOG2_E;
        most[i / 2] = fmaxf(most[i / 2], scores[n][i]);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      most[half] = fmaxf(most[half], __shfl_xor_sync(ALL_LANES, most[half], 1));
      most[half] = fmaxf(most[half], __shfl_xor_sync(ALL_LANES, most[half], 2));
      // a row that has seen nothing yet has nothing to shrink
      const float shrink = most[half] == -INFINITY ? 1.0f : exp2f(highest[half] - most[half]);
      highest[half] = most[half];
      total[half] *= shrink;
#pragma unroll
      for (int n = 0; n < OUTS; n++) {
        sums[n][half * 2] *= shrink;
        sums[n][half * 2 + 1] *= shrink;
      }
    }
#pragma unroll
    for (int n = 0; n < SCORES; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float top = highest[i / 2];
        scores[n][i] = top == -INFINITY ? 0.0f : exp2f(scores[n][i] - top);
        total[i / 2] += scores[n][i];
      }
    }
    wait_for_copies<0>();
    __syncthreads();
#pragma unroll
    for (int k = 0; k < SCORES; k += 2) {  // sixteen tokens
      const u32 shares[4] = {packed<T>(scores[k][0], scores[k][1]), packed<T>(scores[k][2], scores[k][3]),
                             packed<T>(scores[k + 1][0], scores[k + 1][1]), packed<T>(scores[k + 1][2], scores[k + 1][3])};
#pragma unroll
      for (int n = 0; n < OUTS; n += 2) {
        u32 value[4];  // columns n * 8 to n * 8 + 7 of tokens 0 to 7 and 8 to 15; then the next eight columns
        load_transposed(value, &value_tile[k * 8 + lane % 16][n * 8 + lane / 16 * 8]);
        const u32 low[2] = {value[0], value[1]}, high[2] = {value[2], value[3]};
        mma<T>(sums[n], shares, low);
        mma<T>(sums[n + 1], shares, high);
      }
    }
    __syncthreads();  // before the tiles are written again
  }

#pragma unroll
  for (int half = 0; half < 2; half++) {
    total[half] += __shfl_xor_sync(ALL_LANES, total[half], 1);
    total[half] += __shfl_xor_sync(ALL_LANES, total[half], 2);
    const int r = warp * 16 + g + half * 8;
    if (r >= rows) continue;
    T* const to = out + (size_t(first_row + r) * heads + head) * HEAD_DIM + c * 2;
#pragma unroll
    for (int n = 0; n < OUTS; n++) {
      const u32 pair = packed<T>(sums[n][half * 2] / total[half], sums[n][half * 2 + 1] / total[half]);
      *reinterpret_cast<u32*>(to + n * 8) = pair;
    }
  }
}

#define PREFILL(T, HEAD_DIM)                                                                                      \
  KERNEL(prefill_attention_##T##_##HEAD_DIM, PREFILL_THREADS,                                                     \
         (const T* q, const T* keys, const T* values, const u32* tables, const u32* tiles, T* out, int heads,     \
          int kv_heads, int block_size, float scale, float softcap, int window)) {                                \
    prefill_attention<T, HEAD_DIM>(q, keys, values, tables, tiles, out, heads, kv_heads, block_size, scale,       \
                                   softcap, window);                                                              \
  }
#define PREFILLS(T) PREFILL(T, 32) PREFILL(T, 64) PREFILL(T, 128)
PREFILLS(f16)
PREFILLS(bf16)
