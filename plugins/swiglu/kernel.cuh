// CUDA kernel of farthing::SwiGLU. Untested on GPU; run on the CPU by plugins/cuda/harness.
//
// rows * F * 3 * sizeof(T) bytes and some 20 FLOP an element: bound by bandwidth. Neighbouring threads take neighbouring
// features, so every access is coalesced; a row is a grid row, and no thread divides.
#pragma once

#include "../cuda/device.cuh"

namespace farthing::cuda {

// y = gate / (1 + exp(-gate)) * up. expf of a large -gate is infinite and the quotient 0, as it should be.
template <class T>
__global__ void swiglu_kernel(const T* gate_up, T* y, std::int64_t rows, int width) {
  const int feature = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (feature >= width) return;
  for (std::int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const float gate = to_float(gate_up[row * 2 * width + feature]);
    const float up = to_float(gate_up[row * 2 * width + width + feature]);
    y[row * width + feature] = from_float<T>(gate / (1.0f + expf(-gate)) * up);
  }
}

}  // namespace farthing::cuda
