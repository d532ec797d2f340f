// The graphs that put rows of an image into the decoder's cache, in ONNX Runtime.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "backend.h"
#include "buffer.h"
#include "bundle.h"
#include "ort_backend.h"
#include "ort_library.h"

namespace farthing {

// Sessions are opened when they are first needed; weights that they share with the decoder are packed once by the kernels.
class OrtVisualSteps {
 public:
  OrtVisualSteps(const Bundle& bundle, const OrtOptions& options);

  // keys[i], values[i]: float32 [kv_heads, slots, head_dim] of layer i, written in place. See Backend::run_visual.
  std::int64_t run(const VisualPass& pass, std::span<Buffer> keys, std::span<Buffer> values, std::int64_t slots);

 private:
  Ort::Session& session(const std::string& graph);

  Bundle bundle_;
  OrtOptions options_;
  std::map<std::string, Ort::Session> sessions_;
  Ort::MemoryInfo memory_;
};

}  // namespace farthing
