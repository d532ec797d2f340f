// CUDA kernels of farthing::GatedLora. Untested on GPU; run on the CPU by plugins/cuda/harness.
//
// Only the M listed rows are worked on: M * R warps for the way down, M * N threads for the way up. R is small (16 to 128), so the
// up-projection's R products a thread read b row by row; for M <= 25 rows and R = 16 that is 2*M*R*(K+N) FLOP over (K+N)*R*sizeof(W) bytes,
// bound by bandwidth. Rows that are not listed are a copy of base, and none when y is base's buffer.
#pragma once

#include "../cuda/device.cuh"

namespace farthing::cuda {

// hidden[m, r] = scale * x[rows[m]] . a[r]; a warp each. A row outside is left out: a device has nobody to tell.
template <class T, class W>
__global__ void gated_lora_down_kernel(const T* x, const W* a, const std::int64_t* rows, float* hidden,
                                       std::int64_t total, std::int64_t count, std::int64_t k, std::int64_t rank,
                                       float scale) {
  const std::int64_t warp = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (warp >= count * rank) return;  // a whole warp leaves, and there is no barrier
  const std::int64_t row = rows[warp / rank], r = warp % rank;
  float sum = 0;
  if (row >= 0 && row < total) {
    for (std::int64_t i = lane; i < k; i += kWarp) sum += to_float(x[row * k + i]) * to_float(a[r * k + i]);
  }
  sum = warp_sum(sum);
  if (lane == 0) hidden[warp] = sum * scale;
}

// y[rows[m], n] = base[rows[m], n] + hidden[m] . b[n]; a thread each.
template <class T, class W>
__global__ void gated_lora_up_kernel(const T* base, const W* b, const std::int64_t* rows, const float* hidden, T* y,
                                     std::int64_t total, std::int64_t n, std::int64_t rank) {
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, m = blockIdx.y;
  const std::int64_t row = rows[m];
  if (column >= n || row < 0 || row >= total) return;
  float sum = 0;
  for (std::int64_t r = 0; r < rank; ++r) sum += hidden[m * rank + r] * to_float(b[column * rank + r]);
  y[row * n + column] = from_float<T>(to_float(base[row * n + column]) + sum);
}

}  // namespace farthing::cuda
