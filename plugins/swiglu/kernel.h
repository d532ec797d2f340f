// y[rows, f] = silu(gate_up[rows, :f]) * gate_up[rows, f:2f].
#pragma once

#include <cstddef>

#include "../native/isa.h"
#include "../native/parallel.h"

namespace farthing {

struct SwigluArgs {
  const float* gate_up;
  float* y;
  std::size_t rows, f;
};

FARTHING_DECLARE_KERNEL(void swiglu(const SwigluArgs& args, const Parallel& parallel))

}  // namespace farthing
