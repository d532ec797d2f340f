// Which tokens of a feature map to prune, and which kept token each of them copies (see operator.py).
#pragma once

#include <cstddef>
#include <cstdint>

#include "../native/isa.h"
#include "../native/parallel.h"

namespace farthing {

struct SimPruneArgs {
  const void* x;       // [height * width, dim]
  bool half;           // x is float16 bits; else float32
  const float* noise;  // [height * width]
  std::int64_t* keep;  // [height * width - prune]
  std::int64_t* src;   // [height * width]
  std::size_t height, width, patch_height, patch_width, dim, prune;
  float beta, alpha;
  std::byte* scratch;  // sim_prune_scratch() bytes, aligned to 64; contents need not survive
};

// Bytes of scratch: about 4 * N * (dim + 16), never N * N.
FARTHING_DECLARE_KERNEL(std::size_t sim_prune_scratch(std::size_t tokens, std::size_t dim))

// One sequence.
FARTHING_DECLARE_KERNEL(void sim_prune(const SimPruneArgs& args, const Parallel& parallel))

}  // namespace farthing
