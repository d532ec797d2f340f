// CUDA kernels of farthing::TokenSelect. Untested on GPU; run on the CPU by plugins/cuda/harness.
//
// Row norms, the importance of all tokens, the lower half of the Gram matrix (N * N * D FLOP, N * N * 4 bytes of workspace: 33 MB for
// N = 2880), and then one block per sequence that makes the k picks: a step reads one row of the Gram matrix and the
// 12 bytes of state of every token, from L2. The laziness of the CPU kernel is left out: its windows are too small to fill a device.
#pragma once

#include "../cuda/unit_tiles.cuh"

namespace farthing::cuda {

inline constexpr int kAlwaysKept = -2, kNoCandidate = -1;
enum class SelectMode { topk, mmr, sads };

// pool: the group of a candidate (0 without quotas), else kNoCandidate or kAlwaysKept.
__device__ __forceinline__ int pool_of(const std::int64_t* group, std::int64_t token, int groups, bool limited) {
  if (group == nullptr) return 0;
  const std::int64_t own = group[token];
  if (own == kAlwaysKept) return kAlwaysKept;
  if (own < 0 || (limited && own >= groups)) return kNoCandidate;
  return limited ? static_cast<int>(own) : 0;
}

// What the picks of one sequence start from: pool, value (importance, or the score for topk), nearest = -2, room of each pool.
// One block a sequence; a pool at a time, its minimum and maximum over finite scores.
template <class S>
__global__ void select_begin_kernel(const S* scores, const std::int64_t* group, const std::int64_t* quota, int* pool,
                                    float* value, float* nearest, int* room, int tokens, int groups, SelectMode mode,
                                    float epsilon) {
  FARTHING_SHARED(Key, scratch);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * tokens;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const bool limited = quota != nullptr;
  const int pools = limited ? groups : 1;
  for (int i = thread; i < tokens; i += threads) {
    const float score = to_float(scores[first + i]);
    pool[first + i] = pool_of(group, first + i, groups, limited);
    value[first + i] = score != score ? -INFINITY : score;
    nearest[first + i] = -2.0f;
  }
  for (int p = thread; p < pools; p += threads) {
    const std::int64_t most = limited ? quota[static_cast<std::int64_t>(blockIdx.x) * groups + p] : tokens;
    room[static_cast<std::int64_t>(blockIdx.x) * pools + p] = static_cast<int>(most < 0        ? 0
                                                                               : most > tokens ? tokens
                                                                                               : most);
  }
  if (mode == SelectMode::topk) return;  // the same for all threads
  for (int p = 0; p < pools; ++p) {
    Key least = 0, most = 0;  // of ~ordered and of ordered; 0 where no score is finite
    for (int i = thread; i < tokens; i += threads) {
      const float score = to_float(scores[first + i]);
      if (pool[first + i] != p || !finite(score)) continue;
      least = larger(least, ~ordered(score));
      most = larger(most, ordered(score));
    }
    least = block_best(least, scratch);
    most = block_best(most, scratch);
    const float low = unordered(~static_cast<unsigned>(least)), high = unordered(static_cast<unsigned>(most));
    const bool equal = most == 0 || !(high > low);
    const float extent = high * 0.5f - low * 0.5f + epsilon * 0.5f;  // halves cannot overflow
    for (int i = thread; i < tokens; i += threads) {
      if (pool[first + i] != p) continue;
      const float score = to_float(scores[first + i]);
      const float clean = score != score ? low : fminf(fmaxf(score, low), high);
      value[first + i] = equal ? (mode == SelectMode::sads ? 1.0f : 0.0f) : (clean * 0.5f - low * 0.5f) / extent;
    }
  }
}

// gram[b, i, j] = similarity of tokens i and j. Grid: tiles of rows, tiles of columns, sequences; tiles above the diagonal are mirrored.
template <class T>
__global__ void gram_kernel(const T* feats, const float* scale, float* gram, int tokens, int width) {
  FARTHING_SHARED(float, shared);
  if (blockIdx.x < blockIdx.y) return;  // the same for all threads of the block
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.z) * tokens;
  const int top = static_cast<int>(blockIdx.x) * kTile, left = static_cast<int>(blockIdx.y) * kTile;
  float sums[kEach][kEach];
  unit_tile(
      feats, scale, width, [=](int i) { return top + i < tokens ? first + top + i : -1; },
      [=](int j) { return left + j < tokens ? first + left + j : -1; }, shared, sums);
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  for (int i = 0; i < kEach; ++i) {
    for (int j = 0; j < kEach; ++j) {
      const int row = top + ty + 16 * i, column = left + tx + 16 * j;
      if (row >= tokens || column >= tokens) continue;
      gram[(first + row) * tokens + column] = sums[i][j];
      gram[(first + column) * tokens + row] = sums[i][j];
    }
  }
}

// The k picks of one sequence, one block each. A pick is the best of (tier, objective, lower index) over the tokens left: 2 bits,
// 32 bits and 30 bits of one key.
static __global__ void select_kernel(const float* gram, const int* pool, const float* value, float* nearest, int* room,
                                     int* chosen, std::int64_t* index, std::int64_t* picks, int tokens, int pools,
                                     int k, SelectMode mode, float lam, bool by_position) {
  FARTHING_SHARED(Key, scratch);
  const std::int64_t block = static_cast<std::int64_t>(blockIdx.x), first = block * tokens;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  constexpr unsigned kIndexBits = 30, kIndexMask = (1u << kIndexBits) - 1;
  constexpr float kTaken = 8.0f;  // in nearest: above every similarity
  int* left = room + block * pools;
  int* mine = chosen + block * k;
  const float rest = 1.0f - lam;
  for (int step = 0; step < k; ++step) {
    Key best = 0;
    for (int i = thread; i < tokens; i += threads) {
      const float near = nearest[first + i], worth = value[first + i];
      if (near == kTaken) continue;
      const int own = pool[first + i];
      float objective = 0;
      Key tier = own == kAlwaysKept ? 3 : 0;
      if (own >= 0) {
        tier = left[own] > 0 ? 2 : 1;
        const bool first_of_pool = near < -1.5f || mode == SelectMode::topk;
        objective = first_of_pool ? worth : mode == SelectMode::mmr ? lam * worth - rest * near : worth * (1.0f - near);
      }
      const Key low = kIndexMask - static_cast<unsigned>(i);
      best = larger(best, tier << 62 | static_cast<Key>(ordered(objective)) << kIndexBits | low);
    }
    best = block_best(best, scratch);
    const int pick = static_cast<int>(kIndexMask - (static_cast<unsigned>(best) & kIndexMask));
    const int own = pool[first + pick];
    if (own >= 0 && mode != SelectMode::topk) {
      const float* row = gram + (first + pick) * tokens;
      for (int i = thread; i < tokens; i += threads) {
        // A token that is taken stays taken: 8 is the largest.
        if (pool[first + i] == own) nearest[first + i] = fmaxf(nearest[first + i], row[i]);
      }
    }
    if (pick % threads == thread) nearest[first + pick] = kTaken;  // by the thread that looks at it
    if (thread == 0) {
      mine[step] = pick;
      if (own >= 0) --left[own];
    }
    __syncthreads();
  }
  for (int j = thread; j < k; j += threads) {
    int place = j;
    if (by_position) {
      place = 0;
      for (int i = 0; i < k; ++i) place += mine[i] < mine[j];
    }
    if (index != nullptr) index[block * k + place] = mine[j];
    if (picks != nullptr) picks[block * k + j] = mine[j];
  }
}

}  // namespace farthing::cuda
