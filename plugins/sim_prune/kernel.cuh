// CUDA kernels of farthing::SimPrune. Untested on GPU; run on the CPU by plugins/cuda/harness.
//
// Two passes of 64 x 64 tiles reduce similarities to the best match of every row as they are made; the rest are counts over all tokens,
// N * N comparisons of integers, which for N = 4096 is nothing beside 2 * C times as many FLOP. No N x N matrix is stored.
#pragma once

#include "../cuda/unit_tiles.cuh"

namespace farthing::cuda {

// Index of this thread in a grid of threads along x.
__device__ __forceinline__ std::int64_t global_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// total[b, c] = sum of the unit rows of sequence b. A thread a feature; neighbours read neighbours.
template <class T>
__global__ void unit_sum_kernel(const T* x, const float* scale, float* total, int tokens, int width) {
  const std::int64_t c = global_thread(), first = static_cast<std::int64_t>(blockIdx.y) * tokens;
  if (c >= width) return;
  float sum = 0;
  for (int begin = 0; begin < tokens; begin += 64) {  // in blocks, so that the error grows slowly
    float part = 0;
    for (int i = begin; i < min(begin + 64, tokens); ++i) {
      part += unit_value(x, scale, first + i, width, static_cast<int>(c));
    }
    sum += part;
  }
  total[blockIdx.y * static_cast<std::int64_t>(width) + c] = sum;
}

// score = beta * (unit row . total) + alpha * noise. One block a token.
template <class S, class T>
__global__ void prune_score_kernel(const T* x, const float* scale, const float* total, const S* noise, float* score,
                                   int tokens, int width, float beta, float alpha) {
  FARTHING_SHARED(float, scratch);
  const std::int64_t token = blockIdx.x;
  const float* sum = total + token / tokens * width;
  float dot = 0;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x)) {
    dot += unit_value(x, scale, token, width, i) * sum[i];
  }
  dot = block_sum(dot, scratch);
  const float heard = to_float(noise[token]);
  if (threadIdx.x == 0) score[token] = beta * dot + alpha * (finite(heard) ? heard : 0.0f);
}

struct Map {
  int height, width, patch_height, patch_width;
  __host__ __device__ int tokens() const { return height * width; }
  __host__ __device__ int across() const { return width / patch_width; }
  __host__ __device__ int bases() const { return height / patch_height * across(); }
};

// The base token of every patch, and best = 0 for all tokens, or the mark of a base. A thread a token; the first of a patch
// decides for it, all others write nothing.
static __global__ void choose_bases_kernel(const float* score, int* base, unsigned char* is_base, Map map) {
  const int token = static_cast<int>(global_thread());
  if (token >= map.tokens()) return;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * map.tokens();
  const int row = token / map.width, column = token % map.width;
  const int down = row / map.patch_height, right = column / map.patch_width;
  const bool whole = (down + 1) * map.patch_height <= map.height && right < map.across();
  if (!whole) {
    is_base[first + token] = 0;
    return;
  }
  if (row % map.patch_height != 0 || column % map.patch_width != 0) return;
  Key best = 0;
  for (int i = 0; i < map.patch_height; ++i) {
    for (int j = 0; j < map.patch_width; ++j) {
      const int member = token + i * map.width + j;
      best = larger(best, key_of(score[first + member], member));
    }
  }
  for (int i = 0; i < map.patch_height; ++i) {
    for (int j = 0; j < map.patch_width; ++j) {
      const int member = token + i * map.width + j;
      is_base[first + member] = member == index_of(best);
    }
  }
  base[blockIdx.y * static_cast<std::int64_t>(map.bases()) + down * map.across() + right] = index_of(best);
}

// best[b, rows[i]] = key of (similarity, token) of the nearest of `columns`. Null rows: all tokens. One block for 64 rows.
template <class T>
__global__ void nearest_kernel(const T* x, const float* scale, const int* rows, int row_count, const int* columns,
                               int column_count, Key* best, int tokens, int width) {
  FARTHING_SHARED(Key, found);  // [kTile], then the tiles
  auto* shared = reinterpret_cast<float*>(found + kTile);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * tokens;
  const int top = static_cast<int>(blockIdx.x) * kTile, thread = static_cast<int>(threadIdx.x);
  const int* own = rows == nullptr ? nullptr : rows + static_cast<std::int64_t>(blockIdx.y) * row_count;
  const int* others = columns + static_cast<std::int64_t>(blockIdx.y) * column_count;
  const auto row_of = [=](int i) -> std::int64_t {
    return top + i >= row_count ? -1 : first + (own == nullptr ? top + i : own[top + i]);
  };
  Key mine[kEach] = {};
  for (int left = 0; left < column_count; left += kTile) {
    float sums[kEach][kEach];
    unit_tile(
        x, scale, width, row_of,
        [=](int j) -> std::int64_t { return left + j >= column_count ? -1 : first + others[left + j]; }, shared, sums);
    for (int i = 0; i < kEach; ++i) {
      for (int j = 0; j < kEach; ++j) {
        const int column = left + thread % 16 + 16 * j;
        if (column < column_count) mine[i] = larger(mine[i], key_of(sums[i][j], others[column]));
      }
    }
  }
  // The 16 threads of a row lie side by side in one half of a warp.
  for (int i = 0; i < kEach; ++i) {
    for (int lane = 8; lane > 0; lane /= 2) mine[i] = larger(mine[i], __shfl_xor_sync(kAllLanes, mine[i], lane));
    if (thread % 16 == 0) found[thread / 16 + 16 * i] = mine[i];
  }
  __syncthreads();
  if (thread < kTile && top + thread < row_count) best[row_of(thread)] = found[thread];
}

// pruned = is among the `prune` tokens nearest to a base; ties to the lower token. A thread a token counts those ahead of it.
static __global__ void choose_pruned_kernel(const Key* best, const unsigned char* is_base, unsigned char* pruned,
                                            int tokens, int prune) {
  const int token = static_cast<int>(global_thread());
  if (token >= tokens) return;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * tokens;
  const Key own = key_of(value_of(best[first + token]), token);
  int ahead = 0;
  for (int i = 0; i < tokens; ++i) {
    if (!is_base[first + i]) ahead += key_of(value_of(best[first + i]), i) > own;
  }
  pruned[first + token] = !is_base[first + token] && ahead < prune;
}

// Lists of kept and of pruned tokens, ascending, and the rank of each in its list. A thread a token.
static __global__ void list_kernel(const unsigned char* pruned, int* kept, int* gone, int* rank, std::int64_t* keep,
                                   int tokens, int prune) {
  const int token = static_cast<int>(global_thread());
  if (token >= tokens) return;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * tokens, block = blockIdx.y;
  int before = 0;
  for (int i = 0; i < token; ++i) before += pruned[first + i];
  if (pruned[first + token]) {
    gone[block * prune + before] = token;
    return;
  }
  rank[first + token] = token - before;
  kept[block * (tokens - prune) + token - before] = token;
  if (keep != nullptr) keep[block * (tokens - prune) + token - before] = token;
}

// src: own rank of a kept token, that of the nearest kept one for a pruned token.
static __global__ void source_kernel(const Key* best, const unsigned char* pruned, const int* rank, std::int64_t* src,
                                     int tokens) {
  const int token = static_cast<int>(global_thread());
  if (token >= tokens) return;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * tokens;
  src[first + token] = rank[first + (pruned[first + token] ? index_of(best[first + token]) : token)];
}

}  // namespace farthing::cuda
