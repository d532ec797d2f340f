// The sampler head's graph in ONNX Runtime: from latents of masks to a chain of tokens.
#pragma once

#include <span>
#include <vector>

#include "bundle.h"
#include "ort_backend.h"
#include "ort_library.h"

namespace farthing {

class OrtDraftChain {
 public:
  OrtDraftChain(const Bundle& bundle, const OrtOptions& options);

  // Latents float32 [n, D] of n masks, or [L] of a row; writes n <= drafts ids and probabilities. The graph always makes all of them.
  void run(std::int32_t first, std::span<const float> latents, std::span<std::int32_t> ids, std::span<float> chances);

 private:
  Ort::Session session_;
  Ort::RunOptions run_options_;
  std::int64_t first_ = 0;
  std::vector<float> latents_, chances_;
  std::vector<std::int64_t> draft_;
  std::vector<Ort::Value> values_;
  Ort::IoBinding binding_;
};

}  // namespace farthing
