// CUDA kernel of farthing::KvCompact. Untested on GPU; run on the CPU by plugins/cuda/harness.
//
// A thread owns a feature of a head and takes its accepted rows in ascending order, so moving in place needs no barrier: row rows[t] >= t is
// read before anything writes to it. Neighbouring threads take neighbouring features, so every access is coalesced.
#pragma once

#include "../cuda/device.cuh"

namespace farthing::cuda {

struct CompactShape {
  std::int64_t heads, capacity, dim, listed;
};

// blockIdx.x: sequence and head, blockIdx.y: keys or values. Rows that cannot be are left out: a device has nobody to tell.
template <class T>
__global__ void kv_compact_kernel(const std::int64_t* past_len, const std::int64_t* rows, const std::int64_t* count,
                                  T* keys, T* values, CompactShape s) {
  const std::int64_t b = blockIdx.x / s.heads, past = past_len[b];
  if (past < 0 || past > s.capacity - s.listed) return;
  T* cache = (blockIdx.y == 0 ? keys : values) + (static_cast<std::int64_t>(blockIdx.x) * s.capacity + past) * s.dim;
  const std::int64_t kept = count[b] < s.listed ? count[b] : s.listed;
  for (std::int64_t t = 0; t < kept; ++t) {
    const std::int64_t row = rows[b * s.listed + t];
    if (row <= t || row >= s.capacity - past) continue;
    for (std::int64_t i = threadIdx.x; i < s.dim; i += blockDim.x) cache[t * s.dim + i] = cache[row * s.dim + i];
  }
}

}  // namespace farthing::cuda
