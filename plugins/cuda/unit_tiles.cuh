// Similarities of feature rows, tile by tile: what token selection and pruning share on the device.
//
// A tile of 64 x 64 dot products is done by 256 threads, 16 products each. Every product is one chain of multiply-adds along the depth,
// whatever tile it stands in, so equal rows have equal similarities and ties stay ties. Per depth step a thread reads 8
// values of shared memory for 16 multiply-adds: near the FP32 rate of SM 8.x, far right of the ridge for the 64 rows it loads.
#pragma once

#include "device.cuh"

namespace farthing::cuda {

inline constexpr int kTile = 64, kTileDepth = 16, kTileThreads = 256, kEach = 4;
inline constexpr int kTileStride = kTile + 1;  // odd: a column of the tile lies in 32 different banks
inline constexpr std::size_t kTileShared = 2 * kTileDepth * kTileStride * sizeof(float);

// A float as an unsigned integer of the same order; -0 and 0 are equal. No NaN.
__device__ __forceinline__ unsigned ordered(float x) {
  x += 0.0f;
  unsigned bits;
  memcpy(&bits, &x, sizeof bits);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float unordered(unsigned key) {
  const unsigned bits = key >> 31 ? key & 0x7fffffffu : ~key;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Finite in float32: false for NaN too.
__device__ __forceinline__ bool finite(float x) { return fabsf(x) <= 3.402823466e38f; }

using Key = unsigned long long;
// Larger for the larger value, then for the lower index.
__device__ __forceinline__ Key key_of(float value, int index) {
  return static_cast<Key>(ordered(value)) << 32 | (0xffffffffu - static_cast<unsigned>(index));
}
__device__ __forceinline__ int index_of(Key key) { return static_cast<int>(0xffffffffu - static_cast<unsigned>(key)); }
__device__ __forceinline__ float value_of(Key key) { return unordered(static_cast<unsigned>(key >> 32)); }

__device__ __forceinline__ Key larger(Key a, Key b) { return a > b ? a : b; }

// The largest key of the block; every thread gets it. `scratch`: 32 keys of shared memory, free after the call.
__device__ __forceinline__ Key block_best(Key key, Key* scratch) {
  for (int lane = kWarp / 2; lane > 0; lane /= 2) key = larger(key, __shfl_xor_sync(kAllLanes, key, lane));
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = key;
  __syncthreads();
  key = scratch[0];
  for (int w = 1; w < static_cast<int>(blockDim.x) / kWarp; ++w) key = larger(key, scratch[w]);
  __syncthreads();
  return key;
}

// scale[row] = 1 / (norm + 1e-8), or 0 for a row that is not finite or whose norm overflows. One block a row; reads each row once.
template <class T>
__global__ void row_scale_kernel(const T* x, float* scale, int width) {
  FARTHING_SHARED(float, scratch);
  const T* row = x + static_cast<std::int64_t>(blockIdx.x) * width;
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x)) {
    squares += to_float(row[i]) * to_float(row[i]);
  }
  const float norm = sqrtf(block_sum(squares, scratch));
  if (threadIdx.x == 0) scale[blockIdx.x] = finite(norm) ? 1.0f / (norm + 1e-8f) : 0.0f;
}

// A feature of a unit row; 0 for every row of scale 0, whatever it holds.
template <class T>
__device__ __forceinline__ float unit_value(const T* x, const float* scale, std::int64_t row, int width, int i) {
  return scale[row] == 0.0f ? 0.0f : to_float(x[row * width + i]) * scale[row];
}

// sums[i][j] = unit row row_of(ty + 16 i) . unit row column_of(tx + 16 j), with tx = thread % 16 and ty = thread / 16. Both give a row of x, or
// -1 beyond the edge. For blocks of kTileThreads; `shared` is kTileShared bytes, free after the call.
template <class T, class Rows, class Columns>
__device__ __forceinline__ void unit_tile(const T* x, const float* scale, int width, Rows row_of, Columns column_of,
                                          float* shared, float (&sums)[kEach][kEach]) {
  float* left = shared;
  float* right = shared + kTileDepth * kTileStride;
  const int thread = static_cast<int>(threadIdx.x), tx = thread % 16, ty = thread / 16;
  for (int i = 0; i < kEach; ++i) {
    for (int j = 0; j < kEach; ++j) sums[i][j] = 0;
  }
  for (int begin = 0; begin < width; begin += kTileDepth) {
    for (int e = thread; e < kTile * kTileDepth; e += kTileThreads) {
      const int depth = e % kTileDepth, at = e / kTileDepth, i = begin + depth;
      const std::int64_t row = row_of(at), column = column_of(at);
      left[depth * kTileStride + at] = row < 0 || i >= width ? 0.0f : unit_value(x, scale, row, width, i);
      right[depth * kTileStride + at] = column < 0 || i >= width ? 0.0f : unit_value(x, scale, column, width, i);
    }
    __syncthreads();
    for (int depth = 0; depth < kTileDepth; ++depth) {
      const float* a = left + depth * kTileStride + ty;
      const float* b = right + depth * kTileStride + tx;
      for (int i = 0; i < kEach; ++i) {
        for (int j = 0; j < kEach; ++j) sums[i][j] += a[16 * i] * b[16 * j];
      }
    }
    __syncthreads();
  }
}

}  // namespace farthing::cuda
