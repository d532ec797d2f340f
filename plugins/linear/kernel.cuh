// CUDA kernels of farthing::Linear. Untested on GPU; run on the CPU by plugins/cuda/harness.
//
// Up to kFewRows rows (a decode step, a short draft): a warp per output, the weight row read once, coalesced, for all of them:
// N * K * sizeof(W) bytes at 2 * rows FLOP a weight, bound by bandwidth until some 30 rows on Orin. More rows: square tiles
// through shared memory; each weight is read rows / kTile times. These are plain FMA kernels: for long prefills TensorRT's own
// matrix product (the body) uses tensor cores and is the better choice.
#pragma once

#include "../cuda/device.cuh"

namespace farthing::cuda {

inline constexpr int kFewRows = 8;

// y[r, n] for r < kRows (of `rows` that remain) and the output of this warp. Every lane strides over K by 32.
template <class T, class W, int kRows>
__global__ void linear_rows_kernel(const T* x, const W* weight, const T* bias, T* y, int n, int k) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int out = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / kWarp);
  if (out >= n) return;  // a whole warp leaves, and there is no barrier
  float sums[kRows] = {};
  const W* row = weight + static_cast<std::int64_t>(out) * k;
  for (int i = lane; i < k; i += kWarp) {
    const float w = to_float(row[i]);
    for (int r = 0; r < kRows; ++r) sums[r] += to_float(x[static_cast<std::int64_t>(r) * k + i]) * w;
  }
  for (int r = 0; r < kRows; ++r) {
    const float total = warp_sum(sums[r]);
    if (lane == 0)
      y[static_cast<std::int64_t>(r) * n + out] = from_float<T>(total + (bias ? to_float(bias[out]) : 0.0f));
  }
}

inline constexpr int kTile = 32;   // outputs and rows of a block
inline constexpr int kDepth = 32;  // of K at a time: two tiles of 32 * 33 floats are 8.4 KiB
inline constexpr int kTileThreads = 256;

// A tile of kTile rows by kTile outputs; each thread has 4 of them. The 33rd column keeps banks apart.
template <class T, class W>
__global__ void linear_tile_kernel(const T* x, const W* weight, const T* bias, T* y, int rows, int n, int k) {
  FARTHING_SHARED(float, shared);
  float* xs = shared;
  float* ws = shared + kTile * (kDepth + 1);
  const int first_row = static_cast<int>(blockIdx.y) * kTile, first_out = static_cast<int>(blockIdx.x) * kTile;
  const int thread = static_cast<int>(threadIdx.x);
  const int column = thread % kTile, strip = thread / kTile;  // 8 strips of rows
  float sums[kTile * kTile / kTileThreads] = {};
  for (int depth = 0; depth < k; depth += kDepth) {
    for (int i = thread; i < kTile * kDepth; i += kTileThreads) {
      const int r = i / kDepth, p = i % kDepth;
      const bool inside = depth + p < k;
      const std::int64_t row = first_row + r, out = first_out + r;
      xs[r * (kDepth + 1) + p] = inside && row < rows ? to_float(x[row * k + depth + p]) : 0.0f;
      ws[r * (kDepth + 1) + p] = inside && out < n ? to_float(weight[out * k + depth + p]) : 0.0f;
    }
    __syncthreads();
    for (int p = 0; p < kDepth; ++p) {
      const float w = ws[column * (kDepth + 1) + p];
      for (int j = 0; j < kTile * kTile / kTileThreads; ++j) {
        sums[j] += xs[(strip + j * (kTileThreads / kTile)) * (kDepth + 1) + p] * w;
      }
    }
    __syncthreads();
  }
  const int out = first_out + column;
  for (int j = 0; j < kTile * kTile / kTileThreads; ++j) {
    const std::int64_t row = first_row + strip + j * (kTileThreads / kTile);
    if (row < rows && out < n) {
      y[row * n + out] = from_float<T>(sums[j] + (bias ? to_float(bias[out]) : 0.0f));
    }
  }
}

}  // namespace farthing::cuda
