// Just enough CUDA for the project's kernels to run on the CPU: the same .cuh, compiled by g++, block after block.
//
// The threads of a block are coroutines on one CPU thread. A thread runs until it meets a barrier or a warp intrinsic, then the
// next one runs; when all have met it, all go on. So a run is deterministic, and the order of the threads can be turned
// round: a kernel that lacks a barrier gives other numbers in one of the two orders. Dynamic shared memory starts as NaN.
// What this does not show: speed, coalescing, limits of registers and shared memory, and anything between two blocks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

using std::max;
using std::min;

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
using __half = _Float16;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // blocks follow each other; prefer FARTHING_SHARED, which is poisoned before each block

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace farthing::harness {

// Runs `thread` once per thread of every block. `shared` bytes are what shared_memory() gives to a block.
// Throws std::logic_error when threads of a block wait for each other at different places.
void run(dim3 grid, dim3 block, std::size_t shared, const std::function<void()>& thread);
void* shared_memory();

void block_barrier();
// Leaves `bits` for the other lanes of the warp and waits until all have; returns the 32 values.
const std::uint64_t* exchange(std::uint64_t bits);

// In which order the threads of a block are resumed: forward, or backward.
void set_backward(bool backward);

template <class T>
std::uint64_t to_bits(T value) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
T from_bits(std::uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline unsigned lane() { return threadIdx.x % 32; }

}  // namespace farthing::harness

inline void __syncthreads() { farthing::harness::block_barrier(); }
inline void __syncwarp(unsigned = 0xffffffffu) { farthing::harness::exchange(0); }
inline void __threadfence() {}

template <class T>
T __shfl_sync(unsigned, T value, int source) {
  return farthing::harness::from_bits<T>(farthing::harness::exchange(farthing::harness::to_bits(value))[source & 31]);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  const unsigned from = farthing::harness::lane() ^ static_cast<unsigned>(mask);
  return farthing::harness::from_bits<T>(farthing::harness::exchange(farthing::harness::to_bits(value))[from]);
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
  const unsigned own = farthing::harness::lane(), from = own + delta < 32 ? own + delta : own;
  return farthing::harness::from_bits<T>(farthing::harness::exchange(farthing::harness::to_bits(value))[from]);
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned delta) {
  const unsigned own = farthing::harness::lane(), from = own >= delta ? own - delta : own;
  return farthing::harness::from_bits<T>(farthing::harness::exchange(farthing::harness::to_bits(value))[from]);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  const std::uint64_t* all = farthing::harness::exchange(predicate != 0);
  unsigned bits = 0;
  for (unsigned i = 0; i < 32; ++i) bits |= static_cast<unsigned>(all[i]) << i;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == 0xffffffffu; }

inline float __half2float(__half x) { return static_cast<float>(x); }
inline __half __float2half(float x) { return static_cast<__half>(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
template <class T>
T __ldg(const T* p) {
  return *p;
}

template <class T>
T atomicAdd(T* p, T value) {
  const T old = *p;
  *p = old + value;
  return old;
}
template <class T>
T atomicMax(T* p, T value) {
  const T old = *p;
  *p = std::max(old, value);
  return old;
}
template <class T>
T atomicMin(T* p, T value) {
  const T old = *p;
  *p = std::min(old, value);
  return old;
}
template <class T>
T atomicOr(T* p, T value) {
  const T old = *p;
  *p = old | value;
  return old;
}
