// The choice of a token from a row of logits: what is allowed, edits, temperature, min_p, top_k, top_p, one draw. src/tensor/choice.rs has
// the rules, which the host follows, too.
//
// Layout: logits f32 [rows, vocab], which masks and edits change; of choice i the row it is of, and its settings; chosen u32
// [choices]. One block a choice. Only the chosen ids go back to the host.
//
// A filter keeps a prefix of the tokens ordered by weight, and of equal ones by id: all above a threshold, and of those
// at it the first few. The threshold is found a byte of the weight's bits at a time, from the highest (weights are
// positive floats, which order as their bits do), by a histogram of counts or of masses. Masses are whole numbers, so
// no order of additions changes a result. Each thread has a contiguous run of ids, so that a prefix of threads is a
// prefix of ids. Bound by latency: about ten passes over a row that lies in the L2 cache.
#include "common.cuh"

using u64 = unsigned long long;

constexpr int SAMPLING_THREADS = 512;
constexpr u32 UNUSABLE = ~0u;
constexpr float GREEDY = 1e-5f;
constexpr float UNIT = 1099511627776.0f;  // 2^40
constexpr float LEAST_WEIGHT = 1.17549435e-38f;

__device__ inline u64 units(u32 bits) { return u64(__uint_as_float(bits) * UNIT); }

__device__ inline u64 high_product(u64 a, u64 b) {
#ifdef SWITCHBACK_EMULATED
  return u64((static_cast<unsigned __int128>(a) * b) >> 64);
#else
  return __umul64hi(a, b);
#endif
}

// Of a row, what the filters leave: all weights above `bits`, and the first `ties` at it.
struct Kept {
  u32 bits;
  u64 ties;
};

// A row's weights as bits; 0 for what min_p leaves out.
struct Weights {
  const float* logits;
  float greatest, temperature, least;
  __device__ u32 at(int token) const {
    const float weight = expf((logits[token] - greatest) / temperature);
    return weight >= least ? __float_as_uint(weight) : 0;
  }
};

__device__ inline u64 block_sum_of(u64 value, u64* partial) {
  __syncthreads();
  partial[threadIdx.x] = value;
  __syncthreads();
  for (int width = SAMPLING_THREADS / 2; width > 0; width /= 2) {
    if (int(threadIdx.x) < width) partial[threadIdx.x] += partial[threadIdx.x + width];
    __syncthreads();
  }
  return partial[0];
}

// The sum of what the threads before this one have.
__device__ inline u64 sum_before(u64 value, u64* partial) {
  __syncthreads();
  partial[threadIdx.x] = value;
  __syncthreads();
  for (int offset = 1; offset < SAMPLING_THREADS; offset *= 2) {
    const u64 other = int(threadIdx.x) >= offset ? partial[threadIdx.x - offset] : 0;
    __syncthreads();
    partial[threadIdx.x] += other;
    __syncthreads();
  }
  const u64 before = partial[threadIdx.x] - value;
  __syncthreads();
  return before;
}

// The threshold at which what is counted, from the greatest weight down, first reaches `wanted`, and what of it is
// still missing above the threshold. `Counted` gives what one token counts for.
template <class Counted>
__device__ Kept threshold(const Weights& weights, int first, int last, u64 wanted, u64* histogram, Counted counted) {
  __shared__ u32 found;
  __shared__ u64 missing;
  u32 prefix = 0, mask = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += SAMPLING_THREADS) histogram[i] = 0;
    __syncthreads();
    for (int token = first; token < last; token++) {
      const u32 bits = weights.at(token);
      if (bits != 0 && (bits & mask) == prefix) atomicAdd(&histogram[bits >> shift & 255], counted(bits));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      // where all of it is not enough, the least is the threshold
      u32 byte = 255, least = 0;
      u64 left = wanted;
      bool reached = false;
      for (int b = 255; b >= 0 && !reached; b--) {
        if (histogram[b] == 0) continue;
        least = b;
        reached = histogram[b] >= left;
        if (reached) byte = b;
        else left -= histogram[b];
      }
      found = reached ? byte : least;
      missing = reached ? left : histogram[least];
    }
    __syncthreads();
    prefix |= found << shift;
    mask |= 255u << shift;
    wanted = missing;
    __syncthreads();
  }
  return {prefix, wanted};
}

// masks u32 [rows, ceil(vocab / 32)]: a bit for each token that is allowed. What spoils a row is left to be found.
KERNEL(mask_logits, SAMPLING_THREADS, (float* logits, const u32* rows, const u32* masks, int vocab)) {
  float* row = logits + size_t(rows[blockIdx.x]) * vocab;
  const u32* mask = masks + size_t(blockIdx.x) * ((vocab + 31) / 32);
  for (int token = threadIdx.x; token < vocab; token += SAMPLING_THREADS) {
    const bool allowed = mask[token / 32] >> (token % 32) & 1;
    if (!allowed && row[token] <= 3.40282347e38f) row[token] = -INFINITY;
  }
}

KERNEL(edit_logits, SAMPLING_THREADS,
       (float* logits, const u32* rows, const u32* starts, const u32* tokens, const float* bias, const float* repetition,
        const float* minus, int vocab)) {
  float* row = logits + size_t(rows[blockIdx.x]) * vocab;
  for (u32 i = starts[blockIdx.x] + threadIdx.x; i < starts[blockIdx.x + 1]; i += SAMPLING_THREADS) {
    float logit = row[tokens[i]] + bias[i];
    logit = logit > 0.0f ? logit / repetition[i] : logit * repetition[i];
    row[tokens[i]] = fminf(logit - minus[i], 3.40282347e38f);
  }
}

KERNEL(choose, SAMPLING_THREADS,
       (const float* logits, const u32* rows, const float* temperatures, const u32* top_ks, const float* top_ps,
        const float* min_ps, const u32* randoms, u32* chosen, int vocab)) {
  __shared__ u64 partial[SAMPLING_THREADS];
  __shared__ u64 histogram[256];
  const int choice = blockIdx.x;
  const float* row = logits + size_t(rows[choice]) * vocab;
  const int run = (vocab + SAMPLING_THREADS - 1) / SAMPLING_THREADS;
  const int first = min(int(threadIdx.x) * run, vocab), last = min(first + run, vocab);

  float most = -INFINITY;
  bool wrong = false;
  for (int token = first; token < last; token++) {
    wrong = wrong || row[token] != row[token];
    most = fmaxf(most, row[token]);
  }
  const float greatest = block_max(most);
  const bool unusable = block_sum(wrong ? 1.0f : 0.0f) > 0.0f || !(fabsf(greatest) <= 3.40282347e38f);
  if (unusable) {
    if (threadIdx.x == 0) chosen[choice] = UNUSABLE;
    return;
  }

  if (temperatures[choice] < GREEDY) {
    int best = -1;
    for (int token = first; token < last && best < 0; token++) {
      if (row[token] >= greatest) best = token;
    }
    if (sum_before(best >= 0, partial) == 0 && best >= 0) chosen[choice] = u32(best);
    return;
  }

  const Weights weights{row, greatest, temperatures[choice], fmaxf(min_ps[choice], LEAST_WEIGHT)};
  Kept kept{1, ~u64(0)};  // everything
  if (top_ks[choice] > 0) {
    kept = threshold(weights, first, last, top_ks[choice], histogram, [](u32) { return u64(1); });
  }
  if (top_ps[choice] < 1.0f) {
    // of what top_k left
    u64 above = 0, at = 0;
    for (int token = first; token < last; token++) {
      const u32 bits = weights.at(token);
      above += bits > kept.bits ? units(bits) : 0;
      at += bits == kept.bits;
    }
    above = block_sum_of(above, partial);
    at = block_sum_of(at, partial);
    const u64 total = above + min(at, kept.ties) * units(kept.bits);
    const u64 wanted = u64(double(top_ps[choice]) * double(total));
    // what is wanted is reached at the latest where top_k stopped
    const Kept mass = threshold(weights, first, last, max(wanted, u64(1)), histogram, [](u32 bits) { return units(bits); });
    if (mass.bits >= kept.bits) {
      const u64 each = max(units(mass.bits), u64(1)), ties = (mass.ties + each - 1) / each;
      kept = {mass.bits, mass.bits == kept.bits ? min(ties, kept.ties) : ties};
    }
  }

  // one draw through what is left, by id
  u64 ties = 0, above = 0;
  for (int token = first; token < last; token++) {
    const u32 bits = weights.at(token);
    ties += bits == kept.bits;
    above += bits > kept.bits ? units(bits) : 0;
  }
  const u64 ties_before = sum_before(ties, partial);
  const u64 left = kept.ties > ties_before ? kept.ties - ties_before : 0;
  const u64 mine = above + min(ties, left) * units(kept.bits);
  const u64 before = sum_before(mine, partial);
  const u64 total = block_sum_of(mine, partial);
  const u64 random = u64(randoms[2 * choice]) | u64(randoms[2 * choice + 1]) << 32;
  const u64 wanted = high_product(random, total);
  if (before <= wanted && wanted < before + mine) {
    u64 sum = before, tied = 0;
    for (int token = first; token < last; token++) {
      const u32 bits = weights.at(token);
      if (bits == kept.bits && tied++ >= left) continue;
      if (bits < kept.bits || bits == 0) continue;
      sum += units(bits);
      if (sum > wanted) {
        chosen[choice] = u32(token);
        break;
      }
    }
  }
}
