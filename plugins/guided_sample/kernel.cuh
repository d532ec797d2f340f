// CUDA kernel of farthing::GuidedSample. Untested on GPU; run on the CPU by plugins/cuda/harness.
//
// One block a row, which reads both logits once (8 bytes each), and then works on 4 bytes an id in the workspace, 64 KiB for 16,384 ids: from L2, or
// L1 where it is that large. Thresholds are found by bisection over bit patterns, as in kernel.cc: a step is a pass and a reduction.
// 2 * 25 FLOP an id for guidance and exponentials, 31 comparisons for each threshold: a row takes some 50 barriers, not bandwidth.
#pragma once

#include "../cuda/device.cuh"

namespace farthing::cuda {

inline constexpr float kReach = 87.0f, kNowhere = 128.0f;  // what is farther than kReach weighs nothing
inline constexpr float kBelowOne = 1.0f - 0x1p-24f, kLargestFloat = 3.402823466e38f;

struct SampleShape {
  std::int64_t rows;  // of a sequence
  int size;           // ids
};

// uncond + scale * (cond - uncond), each operation rounded by itself: ties are then the same on every face.
__device__ __forceinline__ float guided(float cond, float uncond, float scale) {
  float value = cond;
  if (scale != 1.0f) {
#if defined(__CUDA_ARCH__)
    value = __fadd_rn(uncond, __fmul_rn(scale, __fsub_rn(cond, uncond)));
#else
    value = uncond + scale * (cond - uncond);
#endif
  }
  return value == value ? value : -INFINITY;
}

// Maximum over the block; every thread gets it. `scratch`: 32 floats, free after the call.
__device__ __forceinline__ float block_max(float x, float* scratch) {
  x = warp_max(x);
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = scratch[0];
  for (int w = 1; w < static_cast<int>(blockDim.x) / kWarp; ++w) x = fmaxf(x, scratch[w]);
  __syncthreads();
  return x;
}

__device__ __forceinline__ float from_bits(int bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
__device__ __forceinline__ int to_bits(float x) {
  int bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

// How many ids are within `limit`, or their mass. Every thread gets it. A thread looks at the elements that it wrote.
template <bool kMass>
__device__ __forceinline__ float within(const float* away, int size, float limit, float* scratch) {
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < size; i += static_cast<int>(blockDim.x)) {
    if (away[i] <= limit) sum += kMass ? expf(-away[i]) : 1.0f;
  }
  return block_sum(sum, scratch);
}

// A distance, at most `farthest`, within which just those lie that the smallest with this mass (or count) has within it.
template <bool kMass>
__device__ __forceinline__ float threshold(const float* away, int size, float farthest, float target, float* scratch) {
  int low = -1, high = to_bits(farthest);
  float below = 0, above = static_cast<float>(size);
  while (high - low > 1 && (kMass || above - below > 1)) {  // the same in all threads
    const int middle = low + (high - low) / 2;
    const float tally = within<kMass>(away, size, from_bits(middle), scratch);
    if (tally < target) {
      low = middle, below = tally;
    } else {
      high = middle, above = tally;
    }
  }
  return from_bits(high);
}

// Shared memory: 32 floats and a double a thread, and a double a warp.
__host__ __device__ constexpr std::size_t sample_shared(int threads) {
  return 32 * sizeof(float) + static_cast<std::size_t>(threads + threads / kWarp) * sizeof(double);
}

// The thread whose stretch of ids the draw falls into writes the id. All sums run upwards, so stretches meet without gap or overlap.
// Returns the total to all threads.
__device__ __forceinline__ double draw(const float* weight, int size, float u, double* sums, double* totals,
                                       std::int64_t* id) {
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp;
  const int stretch = static_cast<int>(ceil_div(size, static_cast<std::int64_t>(blockDim.x)));
  const int begin = min(thread * stretch, size), end = min(begin + stretch, size);
  double own = 0;
  for (int i = begin; i < end; ++i) own += static_cast<double>(weight[i]);
  sums[thread] = own;
  __syncthreads();
  double before = 0;
  for (int t = warp * kWarp; t < thread; ++t) before += sums[t];
  if (thread % kWarp == kWarp - 1) totals[warp] = before + own;
  __syncthreads();
  double base = 0, total = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) {
    if (w == warp) base = total;
    total += totals[w];
  }
  const double target = total * static_cast<double>(u > 0.0f ? fminf(u, kBelowOne) : 0.0f);
  if (base + before <= target && target < base + (before + own)) {
    double running = base + before;
    int last = begin;
    for (int i = begin; i < end && running <= target; ++i) {
      if (weight[i] == 0.0f) continue;
      last = i;
      running += static_cast<double>(weight[i]);
    }
    *id = last;
  }
  return total;
}

// blockIdx.x: sequence and row. `away` [all rows, size] is workspace; probs may be null.
static __global__ void __launch_bounds__(1024)
    guided_sample_kernel(const float* cond, const float* uncond, const float* scale, const float* uniforms,
                         const float* temperature, const std::int64_t* top_k, const float* top_p, float* away,
                         std::int64_t* ids, float* probs, SampleShape s) {
  FARTHING_SHARED(float, scratch);
  double* sums = reinterpret_cast<double*>(scratch + 32);
  double* totals = sums + blockDim.x;
  const std::int64_t row = blockIdx.x, first = row * s.size;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const float guidance = scale[row / s.rows], heat = temperature[0], mass = top_p[0];
  const std::int64_t rank = top_k[0];
  float* mine = away + first;

  float peak = -INFINITY;
  for (int i = thread; i < s.size; i += threads) {
    const float value = guided(cond[first + i], uncond[first + i], guidance);
    mine[i] = value;
    peak = fmaxf(peak, value);
  }
  peak = block_max(peak, scratch);

  if (!(heat > 0.0f)) {                        // the same for all threads
    float last = -static_cast<float>(s.size);  // minus the lowest id of the best: exact below 2^24
    for (int i = thread; i < s.size; i += threads) {
      if (mine[i] != peak) continue;
      last = -static_cast<float>(i);
      break;
    }
    const int best = static_cast<int>(-block_max(last, scratch));
    if (thread == 0) ids[row] = best;
    for (int i = thread; probs != nullptr && i < s.size; i += threads) probs[first + i] = i == best ? 1.0f : 0.0f;
    return;
  }

  for (int i = thread; i < s.size; i += threads) {
    const float far = mine[i] == peak ? 0.0f : (peak - mine[i]) / fminf(heat, kLargestFloat);
    mine[i] = far <= kReach ? far : kNowhere;
  }
  float near = kNowhere;
  if (rank > 0 && rank < s.size) near = threshold<false>(mine, s.size, near, static_cast<float>(rank), scratch);
  if (mass < 1.0f) {
    const float all = within<true>(mine, s.size, near, scratch);
    near = threshold<true>(mine, s.size, near, fmaxf(mass, 0.0f) * all, scratch);
  }
  for (int i = thread; i < s.size; i += threads) {
    mine[i] = mine[i] <= near && mine[i] <= kReach ? expf(-mine[i]) : 0.0f;
  }
  __syncthreads();
  const auto total = static_cast<float>(draw(mine, s.size, uniforms[row], sums, totals, ids + row));
  for (int i = thread; probs != nullptr && i < s.size; i += threads) probs[first + i] = mine[i] / total;
}

}  // namespace farthing::cuda
