// What kernels share: one source for nvcc and for the CPU harness, conversions, reductions, launching.
//
// Kernels read and write T (float or __half) and compute in float. They are written for blocks of whole warps in which no
// thread leaves before the last barrier.
#pragma once

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "harness/cuda.h"
#endif

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace farthing::cuda {

using Half = __half;

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(Half x) { return __half2float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ Half from_float<Half>(float x) {
  return __float2half(x);
}

// Sum or maximum over the 32 lanes of a warp; every lane gets it. The tree is fixed, so results repeat bit for bit.
__device__ __forceinline__ float warp_sum(float x) {
  for (int lane = kWarp / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(kAllLanes, x, lane);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
  for (int lane = kWarp / 2; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, lane));
  return x;
}

// Sum over the block (a multiple of 32 threads, at most 1024); every thread gets it. `scratch`: 32 floats of shared memory,
// free for other use after the call.
__device__ __forceinline__ float block_sum(float x, float* scratch) {
  const int warps = static_cast<int>(blockDim.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  x = warp_sum(x);
  if (lane == 0) scratch[threadIdx.x / kWarp] = x;
  __syncthreads();
  float total = 0;
  for (int w = 0; w < warps; ++w) total += scratch[w];
  __syncthreads();
  return total;
}

// The dynamic shared memory of a block as an array of T: FARTHING_SHARED(float, tile);
#if defined(__CUDACC__)
#define FARTHING_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char farthing_shared[]; \
  type* name = reinterpret_cast<type*>(farthing_shared)
#else
#define FARTHING_SHARED(type, name) type* name = static_cast<type*>(::farthing::harness::shared_memory())
#endif

inline constexpr std::size_t kSharedPlain = 48 << 10;  // more must be asked for, and is there on 8.0 and later

// Starts a kernel; `shared` bytes of dynamic shared memory. Throws when the device refuses the launch.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared, void* stream,
            Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#if defined(__CUDACC__)
  if (shared > kSharedPlain) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  }
  kernel<<<grid, block, shared, static_cast<cudaStream_t>(stream)>>>(static_cast<Parameters>(arguments)...);
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string("kernel launch is refused with '") + cudaGetErrorString(status) +
                             "', expected success; is the library built for this device?");
  }
#else
  (void)stream;
  harness::run(grid, block, shared, [=] { kernel(static_cast<Parameters>(arguments)...); });
#endif
}

// A copy on the device, in the order of the stream; none when source and target are the same buffer.
inline void copy(void* target, const void* source, std::size_t bytes, void* stream) {
  if (target == source || bytes == 0) return;
#if defined(__CUDACC__)
  const cudaError_t status =
      cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream));
  if (status != cudaSuccess) throw std::runtime_error(std::string("copy failed: ") + cudaGetErrorString(status));
#else
  (void)stream;
  __builtin_memcpy(target, source, bytes);
#endif
}

__host__ __device__ constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace farthing::cuda
