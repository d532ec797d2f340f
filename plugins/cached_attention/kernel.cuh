// CUDA kernels of farthing::CachedAttention and QuantizedCachedAttention. Untested on GPU; run on the CPU by plugins/cuda/harness.
//
// Two kernels. The first splits a row of qkv: queries are normed, rotated, scaled and kept as float in the workspace, keys
// and values go to their cache slot. The second attends with a running softmax (Milakov and Gimelshein 2018; Dao et al. 2022)
// over tiles of 64 keys. All query heads of one key/value head share its keys, so their rows are stacked, kStack of them in a
// block: each key is read once per 8 stacked rows. A decode step of S = 1 reads 2 * Hkv * length * dh * sizeof(T) bytes of cache
// once when H / Hkv <= 8, at 4 * H / Hkv FLOP a pair of numbers: bound by bandwidth; with codes sizeof is 1. Keys are not split over blocks, so at
// batch 1 only Hkv blocks work; splitting them is what is left to do for long contexts.
#pragma once

#include <type_traits>

#include "../cuda/device.cuh"

namespace farthing::cuda {

// The cache is of C: T itself, or codes of 8 bits with a scale for each key/value head and feature. What a key's code is worth is
// multiplied to the query, what a value's is worth to the result.
using Code = std::int8_t;
template <class C>
inline constexpr bool kIsCode = std::is_same_v<C, Code>;

__device__ __forceinline__ float to_float(Code x) { return static_cast<float>(x); }

// The nearest code, ties to even, clipped to -128 .. 127; NaN becomes -128.
__device__ __forceinline__ Code to_code(float steps) {
  steps = steps > -128.0f ? steps : -128.0f;
  return static_cast<Code>(rintf(steps < 127.0f ? steps : 127.0f));
}

struct AttentionShape {
  std::int64_t rows, heads, kv_heads, dim, half, capacity, window;  // window 0: none
  std::int64_t words;                                               // of `visible` per row
  float scale, epsilon;
};

// Does row `row` of the pass see `slot`? Without `visible`: all before it and itself, inside the window. With it: the rows of
// the pass that its bits name, and of the past what its position leaves of the window (operator.py tells why). `count`: rows of
// the pass that it sees.
__device__ __forceinline__ bool sees(const std::int64_t* bits, std::int64_t count, std::int64_t row,
                                     std::int64_t behind, const AttentionShape& s) {
  if (!bits) return behind <= row && (!s.window || behind > row - s.window);
  if (behind < 0) return !s.window || behind > count - 1 - s.window;
  return behind < s.rows && (bits[behind / 64] >> (behind % 64) & 1);
}

// One block per (row of qkv, head); blockIdx.y runs over the heads of q, k and v. `queries`: [B,Hkv,S*group,dh] floats.
// A row that has no slot in the cache is not written: a device has nobody to tell, but it must not leave its buffers.
template <class T, class C>
__global__ void attention_place_kernel(const T* qkv, const T* cos, const T* sin, const std::int64_t* past_len,
                                       const T* k_scale, const T* v_scale, const T* q_norm, const T* k_norm,
                                       C* present_k, C* present_v, float* queries, AttentionShape s) {
  FARTHING_SHARED(float, scratch);
  const std::int64_t row = blockIdx.x % s.rows, b = blockIdx.x / s.rows, head = blockIdx.y;
  const std::int64_t group = s.heads / s.kv_heads, slot = past_len[b] + row;
  const bool is_query = head < s.heads, is_key = !is_query && head < s.heads + s.kv_heads;
  const bool inside = slot >= 0 && slot < s.capacity;
  const T* x = qkv + ((b * s.rows + row) * (s.heads + 2 * s.kv_heads) + head) * s.dim;
  const T* norm = is_query ? q_norm : is_key ? k_norm : nullptr;
  float gain = is_query ? s.scale : 1.0f;
  if (norm) {  // the same for the whole block
    float squares = 0;
    for (std::int64_t i = threadIdx.x; i < s.dim; i += blockDim.x) squares += to_float(x[i]) * to_float(x[i]);
    gain *= rsqrtf(block_sum(squares, scratch) / static_cast<float>(s.dim) + s.epsilon);
  }
  const std::int64_t kv = is_query ? head / group : (head - s.heads) % s.kv_heads;
  float* query = queries + ((b * s.kv_heads + kv) * s.rows * group + row * group + head % group) * s.dim;
  C* cached = (is_key ? present_k : present_v) + ((b * s.kv_heads + kv) * s.capacity + slot) * s.dim;
  const T* angles_cos = cos + (b * s.rows + row) * s.half;
  const T* angles_sin = sin + (b * s.rows + row) * s.half;
  for (std::int64_t i = threadIdx.x; i < s.dim; i += blockDim.x) {
    float value = to_float(x[i]) * (norm ? to_float(norm[i]) : 1.0f);
    if ((is_query || is_key) && i < 2 * s.half) {
      // Half-split rotation: feature i turns with its partner half a head away.
      const std::int64_t pair = i < s.half ? i : i - s.half, other = i < s.half ? i + s.half : i - s.half;
      const float partner = to_float(x[other]) * (norm ? to_float(norm[other]) : 1.0f);
      const float c = to_float(angles_cos[pair]), d = to_float(angles_sin[pair]);
      value = i < s.half ? value * c - partner * d : value * c + partner * d;
    }
    value *= gain;
    if constexpr (kIsCode<C>) {
      const float scale = to_float((is_query || is_key ? k_scale : v_scale)[kv * s.dim + i]);
      if (is_query) {
        query[i] = value * scale;
      } else if (inside) {
        cached[i] = to_code(value / scale);
      }
    } else if (is_query) {
      query[i] = value;
    } else if (inside) {
      cached[i] = from_float<C>(value);
    }
  }
}

inline constexpr int kStack = 8;            // stacked rows of a block
inline constexpr int kKeys = 64;            // keys of a tile
inline constexpr int kSlice = 64;           // features of a key staged at a time
inline constexpr int kAttendThreads = 128;  // 4 warps; a warp owns the softmax of 2 rows
inline constexpr int kMostDim = 512;        // 4 features a thread
inline constexpr std::size_t kAttendShared =
    (kStack * kMostDim + kKeys * (kSlice + 1) + kStack * kKeys + 4 * kStack) * sizeof(float);

// One block per (stack of rows, key/value head, batch). y: [B,S,H,dh].
template <class T, class C>
__global__ void attention_attend_kernel(const float* queries, const C* present_k, const C* present_v,
                                        const std::int64_t* past_len, const std::int64_t* visible, const T* v_scale,
                                        T* y, AttentionShape s) {
  FARTHING_SHARED(float, shared);
  float* q = shared;                            // [kStack][dim]
  float* keys = q + kStack * kMostDim;          // [kKeys][kSlice + 1]: the odd stride keeps banks apart
  float* scores = keys + kKeys * (kSlice + 1);  // [kStack][kKeys]
  float* top = scores + kStack * kKeys;         // running maximum, sum, and factor of this tile
  float* mass = top + kStack;
  float* shrink = mass + kStack;
  int* counts = reinterpret_cast<int*>(shrink + kStack);  // rows of the pass that a row sees

  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  const std::int64_t group = s.heads / s.kv_heads, stacked = s.rows * group;
  const std::int64_t h = blockIdx.y, b = blockIdx.z, first = static_cast<std::int64_t>(blockIdx.x) * kStack;
  const int rows = static_cast<int>(stacked - first < kStack ? stacked - first : kStack);
  const std::int64_t past = past_len[b];
  const float* own = queries + ((b * s.kv_heads + h) * stacked + first) * s.dim;
  const C* k = present_k + (b * s.kv_heads + h) * s.capacity * s.dim;
  const C* v = present_v + (b * s.kv_heads + h) * s.capacity * s.dim;

  for (int i = thread; i < rows * s.dim; i += kAttendThreads) q[i] = own[i];
  if (thread < kStack) {
    top[thread] = -INFINITY;
    mass[thread] = 0.0f;
    std::int64_t seen = 0;
    if (visible && thread < rows) {
      const std::int64_t* bits = visible + (b * s.rows + (first + thread) / group) * s.words;
      for (std::int64_t w = 0; w < s.words; ++w) seen += __popcll(static_cast<unsigned long long>(bits[w]));
    }
    counts[thread] = static_cast<int>(seen);
  }
  float out[kStack][kMostDim / kAttendThreads] = {};  // feature thread + j * kAttendThreads of each row
  __syncthreads();

  // Slots that any row of the block may see: [earliest, last]. Bits may name any row of the pass, and reach back a whole window.
  std::int64_t last = past + (visible ? s.rows - 1 : (first + rows - 1) / group);
  last = last < s.capacity ? last : s.capacity - 1;
  std::int64_t earliest = s.window ? past + (visible ? 0 : first / group) + 1 - s.window : 0;
  earliest = earliest > 0 ? earliest / kKeys * kKeys : 0;
  for (std::int64_t base = earliest; base <= last; base += kKeys) {
    const int present = static_cast<int>(last + 1 - base < kKeys ? last + 1 - base : kKeys);
    // Scores: thread t has key t % 64 of rows t / 64, t / 64 + 2, ...
    const int key = thread % kKeys, parity = thread / kKeys;
    float dots[kStack / 2] = {};
    for (int slice = 0; slice < s.dim; slice += kSlice) {
      const int width = s.dim - slice < kSlice ? static_cast<int>(s.dim) - slice : kSlice;
      for (int i = thread; i < present * kSlice; i += kAttendThreads) {
        const int row = i / kSlice, feature = i % kSlice;
        if (feature < width) keys[row * (kSlice + 1) + feature] = to_float(k[(base + row) * s.dim + slice + feature]);
      }
      __syncthreads();
      if (key < present) {
        for (int j = 0; j < kStack / 2; ++j) {
          const int row = parity + 2 * j;
          if (row >= rows) break;
          const float* query = q + row * s.dim + slice;
          for (int i = 0; i < width; ++i) dots[j] += query[i] * keys[key * (kSlice + 1) + i];
        }
      }
      __syncthreads();
    }
    for (int j = 0; j < kStack / 2; ++j) {
      const int row = parity + 2 * j;
      const std::int64_t token = (first + row) / group;
      const std::int64_t* bits = visible && row < rows ? visible + (b * s.rows + token) * s.words : nullptr;
      const bool open = key < present && sees(bits, counts[row], token, base + key - past, s);
      scores[row * kKeys + key] = open ? dots[j] : -INFINITY;  // not the dot product: a free slot may hold NaN
    }
    __syncthreads();
    // Softmax of the tile: a warp per row, two keys a lane.
    for (int row = warp; row < kStack; row += kAttendThreads / kWarp) {
      const float left = scores[row * kKeys + lane], right = scores[row * kKeys + kWarp + lane];
      const float before = top[row], higher = fmaxf(before, warp_max(fmaxf(left, right)));
      const bool any = higher > -INFINITY;
      const float a = any ? expf(left - higher) : 0.0f, c = any ? expf(right - higher) : 0.0f;
      scores[row * kKeys + lane] = a;
      scores[row * kKeys + kWarp + lane] = c;
      const float sum = warp_sum(a + c);
      if (lane == 0) {
        shrink[row] = any && before > -INFINITY ? expf(before - higher) : 0.0f;
        mass[row] = mass[row] * shrink[row] + sum;
        top[row] = higher;
      }
    }
    __syncthreads();
    // out = out * shrink + weights @ values; neighbouring threads read neighbouring features of a value.
    for (int j = 0; j < kMostDim / kAttendThreads; ++j) {
      const int feature = thread + j * kAttendThreads;
      if (feature >= s.dim) break;
      for (int row = 0; row < kStack; ++row) out[row][j] *= shrink[row];
      for (int i = 0; i < present; ++i) {
        const float value = to_float(v[(base + i) * s.dim + feature]);
        for (int row = 0; row < kStack; ++row) {
          const float weight = scores[row * kKeys + i];
          if (weight != 0.0f) out[row][j] += weight * value;  // 0 * NaN of a slot that this row does not see
        }
      }
    }
    __syncthreads();
  }
  for (int row = 0; row < rows; ++row) {
    const std::int64_t head = h * group + (first + row) % group, token = (first + row) / group;
    for (int j = 0; j < kMostDim / kAttendThreads; ++j) {
      const int feature = thread + j * kAttendThreads;
      if (feature >= s.dim) break;
      float mixed = out[row][j] / mass[row];
      if constexpr (kIsCode<C>) mixed *= to_float(v_scale[h * s.dim + feature]);
      y[((b * s.rows + token) * s.heads + head) * s.dim + feature] = from_float<T>(mixed);
    }
  }
}

}  // namespace farthing::cuda
