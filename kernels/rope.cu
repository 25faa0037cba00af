// Rotary position embedding (Su et al., 2021) of halves, as Hugging Face's Llama rotates: element i of a head turns with
// element i + half, for the first 2 * half elements; the others stay. Fused with the write of keys and values into their
// slots. A layer without rope has a half of 0.
//
// Layout: q T [rows, heads, head_dim], k and v T [rows, kv_heads, head_dim]; angles f32 [rows, half] of cosine
// and sine; keys and values of one layer T [slots, kv_heads, head_dim]. One block a row. The angles are computed once a
// pass, by the host's own formula in f32, and read by all layers.
#include "common.cuh"

constexpr int ROPE_THREADS = 256;

// Turns whole heads from one place to another, which may be the same.
template <class T>
__device__ void turn(const T* from, T* to, const float2* turns, int heads, int head_dim, int half) {
  for (int i = threadIdx.x; i < heads * half; i += ROPE_THREADS) {
    const int at = i / half * head_dim + i % half;
    const float2 turn = turns[i % half];
    const float a = widen(from[at]), b = widen(from[at + half]);
    to[at] = narrow<T>(a * turn.x - b * turn.y);
    to[at + half] = narrow<T>(b * turn.x + a * turn.y);
  }
  const int rest = head_dim - 2 * half;
  if (from == to) return;
  for (int i = threadIdx.x; i < heads * rest; i += ROPE_THREADS) {
    const int at = i / rest * head_dim + 2 * half + i % rest;
    to[at] = from[at];
  }
}

template <class T>
__device__ void rope_write_kv(T* q, const T* k, const T* v, const float2* angles, const u32* slots, T* keys, T* values,
                              int heads, int kv_heads, int head_dim, int half) {
  const size_t row = blockIdx.x;
  const int width = kv_heads * head_dim;
  const u32 slot = slots[row];
  const float2* turns = angles + row * half;
  q += row * heads * head_dim;
  turn(q, q, turns, heads, head_dim, half);
  if (slot == NO_SLOT) return;
  turn(k + row * width, keys + size_t(slot) * width, turns, kv_heads, head_dim, half);
  values += size_t(slot) * width;
  v += row * width;
  for (int i = threadIdx.x; i < width; i += ROPE_THREADS) values[i] = v[i];
}

KERNEL(rope_angles, ROPE_THREADS,
       (const u32* positions, const float* frequencies, float factor, float2* angles, int rows, int half)) {
  const int i = blockIdx.x * ROPE_THREADS + threadIdx.x;
  if (i >= rows * half) return;
  const float angle = float(positions[i / half]) * frequencies[i % half];
  angles[i] = make_float2(cosf(angle) * factor, sinf(angle) * factor);
}

#define ROPE(T)                                                                                                   \
  KERNEL(rope_write_kv_##T, ROPE_THREADS,                                                                         \
         (T * q, const T* k, const T* v, const float2* angles, const u32* slots, T* keys, T* values, int heads,   \
          int kv_heads, int head_dim, int half)) {                                                                \
    rope_write_kv<T>(q, k, v, angles, slots, keys, values, heads, kv_heads, head_dim, half);                      \
  }
ROPE(f32)
ROPE(f16)
ROPE(bf16)
