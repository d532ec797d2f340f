// The decoder graph in ONNX Runtime, with the cache bound in place.
#pragma once

#include <memory>
#include <string>

#include "backend.h"
#include "bundle.h"

namespace farthing {

struct OrtOptions {
  std::string onnxruntime;    // path of libonnxruntime.so; empty = FARTHING_ORT or the system's
  std::string ops_library;    // path of libfarthing_ops.so; empty = graphs run by their bodies
  int threads = 0;            // 0 = all cores
  std::int64_t capacity = 0;  // cache slots
  std::int64_t chunk = 256;   // most rows of one pass
  bool hashes = true;         // check the SHA-256 of a compiled graph
  bool optimised = false;     // set by open_ort_backend: the graph is a compiled one
};

// Throws Error(environment, bundle, request).
std::unique_ptr<Backend> open_ort_backend(const Bundle& bundle, const OrtOptions& options);

}  // namespace farthing
