// CUDA kernel of farthing::AddRMSNorm. Untested on GPU; run on the CPU by plugins/cuda/harness.
//
// One block a row. The row is read twice, the second time from L1 or L2 (D = 4096 halves are 8 KiB), so memory sees
// rows * D * (2 reads + 2 writes) * sizeof(T) bytes, at 5 FLOP an element: far left of every device's ridge, bound by bandwidth.
#pragma once

#include "../cuda/device.cuh"

namespace farthing::cuda {

// total = x + residual, rounded to T as it is stored; normed = total / sqrt(mean(total^2) + epsilon) * weight.
template <class T>
__global__ void add_rms_norm_kernel(const T* x, const T* residual, const T* weight, T* normed, T* total, int width,
                                    float epsilon) {
  FARTHING_SHARED(float, scratch);
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * width;
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x)) {
    const T sum = from_float<T>(to_float(x[row + i]) + to_float(residual[row + i]));
    total[row + i] = sum;
    squares += to_float(sum) * to_float(sum);
  }
  const float scale = rsqrtf(block_sum(squares, scratch) / static_cast<float>(width) + epsilon);
  for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x)) {
    // The thread reads back what it wrote itself: no barrier is needed for that.
    normed[row + i] = from_float<T>(to_float(total[row + i]) * scale * to_float(weight[i]));
  }
}

}  // namespace farthing::cuda
