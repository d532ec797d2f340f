// Ids drawn from guided logits; see operator.py for the contract.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../native/isa.h"
#include "../native/parallel.h"

namespace farthing {

struct GuidedSampleArgs {
  const float* cond;  // [batch, rows, size]
  const float* uncond;
  const float* scale;     // [batch]
  const float* uniforms;  // [batch, rows]
  float temperature;
  std::int64_t top_k;
  float top_p;
  std::int64_t* ids;  // [batch, rows]
  float* probs;       // [batch, rows, size], or null
  std::size_t batch, rows, size;
};

FARTHING_DECLARE_KERNEL(void guided_sample(const GuidedSampleArgs& args, const Parallel& parallel))

}  // namespace farthing
