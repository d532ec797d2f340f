// y[rows, n] = x[rows, k] * weight[n, k]^T + bias[n], weight in checkpoint layout.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../native/isa.h"
#include "../native/parallel.h"

namespace farthing {

struct LinearArgs {
  const float* x;
  const void* weight;
  bool half;          // weight is float16 bits; else float32
  const float* bias;  // may be null
  float* y;
  std::size_t rows, n, k;
};

// Every y[r, c] is one chain of lane-wise multiply-adds along k and one fixed reduction tree, whatever the number of rows:
// a pass over 8 rows gives bit for bit what 8 passes over one row give. Speculative decoding relies on that.
FARTHING_DECLARE_KERNEL(void linear(const LinearArgs& args, const Parallel& parallel))

}  // namespace farthing
