// total = x + residual; normed = total / sqrt(mean(total^2) + epsilon) * weight, row by row.
#pragma once

#include <cstddef>

#include "../native/isa.h"
#include "../native/parallel.h"

namespace farthing {

struct AddRmsNormArgs {
  const float* x;
  const float* residual;
  const float* weight;
  float* normed;
  float* total;
  std::size_t rows, width;
  float epsilon;
};

FARTHING_DECLARE_KERNEL(void add_rms_norm(const AddRmsNormArgs& args, const Parallel& parallel))

}  // namespace farthing
