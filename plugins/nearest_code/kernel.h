// The nearest row of a table for every latent; see operator.py for the contract.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../native/isa.h"
#include "../native/parallel.h"

namespace farthing {

struct NearestCodeArgs {
  const float* latents;  // [count, dim]
  const float* table;    // [codes, dim]
  std::int64_t* result;  // [count]
  std::size_t count, codes, dim;
  bool normalize;
  std::byte* scratch;  // nearest_code_scratch bytes, aligned to 64
};

FARTHING_DECLARE_KERNEL(std::size_t nearest_code_scratch(std::size_t codes, std::size_t dim))
FARTHING_DECLARE_KERNEL(void nearest_code(const NearestCodeArgs& args, const Parallel& parallel))

}  // namespace farthing
