// CUDA kernels of farthing::NearestCode. Untested on GPU; run on the CPU by plugins/cuda/harness.
//
// Lengths of the codes, then tiles of 64 latents x 64 codes, 16 scores a thread, of which only the best leave the registers: 2*N*V*E FLOP, and
// sizeof(T)*E*(N + V) bytes but for the table, which comes from L2 once for every 64 latents. A block takes 512 codes, so that 256
// latents and 16,384 codes make 128 blocks; the last kernel compares what the blocks found.
#pragma once

#include "../cuda/unit_tiles.cuh"

namespace farthing::cuda {

inline constexpr int kCodesPerBlock = 8 * kTile;
inline constexpr float kShortest = 1e-12f;

// factor: what a row is multiplied by, 0 for one whose squares have no finite sum. bias (if wanted): what its scores begin with. A warp a row.
template <class T>
__global__ void code_lengths_kernel(const T* x, float* factor, float* bias, std::int64_t rows, int width, bool unit) {
  const std::int64_t row = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x) % kWarp; row < rows && i < width; i += kWarp) {
    const float value = to_float(x[row * width + i]);
    squares += value * value;
  }
  squares = warp_sum(squares);
  if (row >= rows || threadIdx.x % kWarp != 0) return;
  const bool known = finite(squares);
  factor[row] = !known ? 0.0f : unit ? 1.0f / fmaxf(sqrtf(squares), kShortest) : 1.0f;
  if (bias != nullptr) bias[row] = !known ? -INFINITY : unit ? 0.0f : -0.5f * squares;
}

template <class T>
__device__ __forceinline__ float scaled(const T* x, const float* factor, std::int64_t row, int width, int i) {
  return factor[row] == 0.0f ? 0.0f : to_float(x[row * width + i]) * factor[row];
}

// found[blockIdx.y, n] = the best of this block's codes for latent n. Grid: tiles of latents, stretches of codes.
template <class T>
__global__ void nearest_tile_kernel(const T* latents, const T* table, const float* meant, const float* factor,
                                    const float* bias, Key* found, std::int64_t count, std::int64_t codes, int width) {
  FARTHING_SHARED(float, left);
  float* right = left + kTileDepth * kTileStride;
  const int thread = static_cast<int>(threadIdx.x), tx = thread % 16, ty = thread / 16;
  const std::int64_t top = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.y) * kCodesPerBlock;
  const std::int64_t end = begin + kCodesPerBlock < codes ? begin + kCodesPerBlock : codes;
  Key best[kEach] = {};
  for (std::int64_t first = begin; first < end; first += kTile) {
    float scores[kEach][kEach];
    for (int j = 0; j < kEach; ++j) {
      const std::int64_t code = first + tx + 16 * j;
      for (int i = 0; i < kEach; ++i) scores[i][j] = code < end ? bias[code] : 0.0f;
    }
    for (int at = 0; at < width; at += kTileDepth) {
      const int depths = width - at < kTileDepth ? width - at : kTileDepth;
      for (int e = thread; e < kTile * depths; e += kTileThreads) {
        const int depth = e % depths, place = e / depths;
        const std::int64_t latent = top + place, code = first + place;
        left[depth * kTileStride + place] = latent < count ? scaled(latents, meant, latent, width, at + depth) : 0.0f;
        right[depth * kTileStride + place] = code < end ? scaled(table, factor, code, width, at + depth) : 0.0f;
      }
      __syncthreads();
      for (int depth = 0; depth < depths; ++depth) {
        const float* a = left + depth * kTileStride + ty;
        const float* b = right + depth * kTileStride + tx;
        for (int i = 0; i < kEach; ++i) {
          for (int j = 0; j < kEach; ++j) scores[i][j] += a[16 * i] * b[16 * j];
        }
      }
      __syncthreads();
    }
    for (int j = 0; j < kEach; ++j) {
      const std::int64_t code = first + tx + 16 * j;
      if (code >= end) continue;
      for (int i = 0; i < kEach; ++i) {
        const float score = scores[i][j] == scores[i][j] ? scores[i][j] : -INFINITY;
        best[i] = larger(best[i], key_of(score, static_cast<int>(code)));
      }
    }
  }
  for (int i = 0; i < kEach; ++i) {
    // The 16 threads of a row of the tile are half a warp.
    for (int lane = 8; lane > 0; lane /= 2) best[i] = larger(best[i], __shfl_xor_sync(kAllLanes, best[i], lane));
    const std::int64_t latent = top + ty + 16 * i;
    if (tx == 0 && latent < count) found[static_cast<std::int64_t>(blockIdx.y) * count + latent] = best[i];
  }
}

// codes[n] = the best that the stretches found; 0 for a latent that cannot be compared. A thread a latent.
static __global__ void nearest_best_kernel(const Key* found, const float* meant, std::int64_t* codes,
                                           std::int64_t count, int stretches) {
  const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= count) return;
  Key best = 0;
  for (int s = 0; s < stretches; ++s) best = larger(best, found[s * count + n]);
  codes[n] = meant[n] == 0.0f ? 0 : index_of(best);
}

}  // namespace farthing::cuda
