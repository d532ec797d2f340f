// CUDA kernels of farthing::AssocMemoryRead. Untested on GPU; run on the CPU by plugins/cuda/harness.
//
// A block takes kRows rows through one span of 256 slots: 32 scores at a time, a running maximum and sum (Milakov and Gimelshein 2018),
// and the sums of the slots in shared memory. A second kernel merges the spans, which is what keeps many multiprocessors busy when
// there is one row. 4 * rows * M * C FLOP; a block reads its span of the bank twice, the second time from L1 or L2, for 8 rows:
// 8 * 4 FLOP for 2 * sizeof(W) bytes, bound by the bandwidth of L2 for prefill and of memory for one row (M * C * sizeof(W) bytes).
#pragma once

#include "../cuda/unit_tiles.cuh"

namespace farthing::cuda {

inline constexpr int kMemoryThreads = 256, kMemoryWarps = kMemoryThreads / kWarp;
inline constexpr int kMemoryBlockRows = 8;  // of prefill: a warp each for the softmax
inline constexpr int kMemoryTile = kWarp;   // slots whose scores are held: a lane each for the softmax
inline constexpr int kMemorySpanSlots = 256;

__device__ __forceinline__ float to_float(std::int8_t x) { return static_cast<float>(x); }

// Bytes of shared memory: rows and their sums, scores, and maximum, sum and factor of each row.
inline std::size_t memory_shared(std::int64_t rows, std::int64_t c) {
  return static_cast<std::size_t>(rows * (2 * c + kMemoryTile + 3)) * sizeof(float);
}

// Scores of one slot with kRows rows, by one warp: scores[r * kMemoryTile] for r < kRows.
template <int kRows, class W>
__device__ __forceinline__ void memory_scores(const float* rows, const W* slot, int c, float factor, float* scores) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float dot[kRows] = {};
  for (int i = lane; i < c; i += kWarp) {
    const float w = to_float(slot[i]);
    for (int r = 0; r < kRows; ++r) dot[r] += rows[r * c + i] * w;
  }
  for (int r = 0; r < kRows; ++r) {
    const float score = warp_sum(dot[r]) * factor;
    if (lane == 0) scores[r * kMemoryTile] = score;
  }
}

// One span for kRows rows. Grid: blocks of rows, spans. best, total [spans, rows]; sums [spans, rows, c], not yet divided.
template <int kRows, class T, class W>
__global__ void memory_span_kernel(const T* x, const W* mem, const T* step, float* best, float* total, float* sums,
                                   int rows, int m, int c, float scale) {
  FARTHING_SHARED(float, shared);
  float *own = shared, *acc = own + kRows * c, *scores = acc + kRows * c;
  float *top = scores + kRows * kMemoryTile, *sum = top + kRows, *factor = sum + kRows;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  const int first = static_cast<int>(blockIdx.x) * kRows, mine = min(kRows, rows - first);
  const int begin = static_cast<int>(blockIdx.y) * kMemorySpanSlots, end = min(begin + kMemorySpanSlots, m);
  for (int i = thread; i < kRows * c; i += kMemoryThreads) {
    own[i] = i < mine * c ? to_float(x[static_cast<std::int64_t>(first) * c + i]) : 0.0f;
    acc[i] = 0.0f;
  }
  if (thread < kRows) {
    top[thread] = -INFINITY;
    sum[thread] = 0.0f;
  }
  __syncthreads();
  for (int tile = begin; tile < end; tile += kMemoryTile) {
    const int slots = min(kMemoryTile, end - tile);
    for (int s = warp; s < slots; s += kMemoryWarps) {
      const float unit = step == nullptr ? 1.0f : to_float(step[tile + s]);
      memory_scores<kRows>(own, mem + static_cast<std::int64_t>(tile + s) * c, c, scale * unit, scores + s);
    }
    __syncthreads();
    if (warp < kRows) {  // a whole warp or none
      const bool real = lane < slots;
      const float score = real ? scores[warp * kMemoryTile + lane] : -INFINITY;
      const float old = top[warp], high = fmaxf(old, warp_max(score));
      const float share = real ? expf(score - high) : 0.0f;
      const float shares = warp_sum(share);
      if (lane == 0) {
        factor[warp] = expf(old - high);
        top[warp] = high;
        sum[warp] = sum[warp] * factor[warp] + shares;
      }
      const float unit = step == nullptr || !real ? 1.0f : to_float(step[tile + lane]);
      scores[warp * kMemoryTile + lane] = share * unit;
    }
    __syncthreads();
    for (int i = thread; i < c; i += kMemoryThreads) {
      float total_of[kRows];
      for (int r = 0; r < kRows; ++r) total_of[r] = acc[r * c + i] * factor[r];
      for (int s = 0; s < slots; ++s) {
        const float w = to_float(mem[static_cast<std::int64_t>(tile + s) * c + i]);
        for (int r = 0; r < kRows; ++r) total_of[r] += scores[r * kMemoryTile + s] * w;
      }
      for (int r = 0; r < kRows; ++r) acc[r * c + i] = total_of[r];
    }
    __syncthreads();
  }
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.y) * rows + first;
  for (int i = thread; i < mine * c; i += kMemoryThreads) sums[at * c + i] = acc[i];
  if (thread < mine) {
    best[at + thread] = top[thread];
    total[at + thread] = sum[thread];
  }
}

// The read of row `row` at channel `i`, from the spans' results.
__device__ __forceinline__ float merged(const float* best, const float* total, const float* sums, int spans, int rows,
                                        int c, int row, int i) {
  float high = -INFINITY;
  for (int s = 0; s < spans; ++s) high = fmaxf(high, best[static_cast<std::int64_t>(s) * rows + row]);
  float value = 0, weight = 0;
  for (int s = 0; s < spans; ++s) {
    const std::int64_t at = static_cast<std::int64_t>(s) * rows + row;
    const float share = expf(best[at] - high);
    value += share * sums[at * c + i];
    weight += share * total[at];
  }
  return value / weight;
}

// Grid: rows, blocks of channels.
template <class T>
__global__ void memory_merge_kernel(const float* best, const float* total, const float* sums, T* y, int spans, int rows,
                                    int c) {
  const int row = static_cast<int>(blockIdx.x);
  const int i = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (i >= c) return;
  y[static_cast<std::int64_t>(row) * c + i] = from_float<T>(merged(best, total, sums, spans, rows, c, row, i));
}

inline std::size_t memory_top_shared(std::int64_t m, std::int64_t c, std::int64_t k) {
  return 32 * sizeof(Key) + static_cast<std::size_t>(c + m + 2 * k) * sizeof(float);
}

// The k best slots only, lowest index first among equals; one block a row, all its scores in shared memory.
template <class T, class W>
__global__ void memory_top_kernel(const T* x, const W* mem, const T* step, T* y, int m, int c, int k, float scale) {
  FARTHING_SHARED(Key, scratch);
  float *own = reinterpret_cast<float*>(scratch + 32), *scores = own + c, *share = scores + m;
  int* pick = reinterpret_cast<int*>(share + k);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * c;
  for (int i = thread; i < c; i += kMemoryThreads) own[i] = to_float(x[row + i]);
  __syncthreads();
  for (int s = warp; s < m; s += kMemoryWarps) {
    const float unit = step == nullptr ? 1.0f : to_float(step[s]);
    memory_scores<1>(own, mem + static_cast<std::int64_t>(s) * c, c, scale * unit, scores + s);
  }
  __syncthreads();
  int found = 0;
  for (; found < k; ++found) {
    Key best = 0;
    for (int s = thread; s < m; s += kMemoryThreads) {
      if (scores[s] == scores[s]) best = larger(best, key_of(scores[s], s));  // NaN: taken, or never to be taken
    }
    best = block_best(best, scratch);
    if (best == 0) break;  // the same for all threads
    if (thread == 0) {
      pick[found] = index_of(best);
      share[found] = value_of(best);
      scores[pick[found]] = NAN;
    }
    __syncthreads();
  }
  float total = 0;
  for (int j = 0; j < found; ++j) total += expf(share[j] - share[0]);
  for (int i = thread; i < c; i += kMemoryThreads) {
    float value = 0;
    for (int j = 0; j < found; ++j) {
      const float unit = step == nullptr ? 1.0f : to_float(step[pick[j]]);
      value += expf(share[j] - share[0]) * unit * to_float(mem[static_cast<std::int64_t>(pick[j]) * c + i]);
    }
    y[row + i] = from_float<T>(value / total);
  }
}

}  // namespace farthing::cuda
