// Engines that `farthing compile --target tensorrt` built, run by TensorRT. Untested on GPU.
#pragma once

#include <memory>
#include <string>

#include "backend.h"
#include "bundle.h"

namespace farthing {

struct TensorRtOptions {
  std::string tensorrt;       // path of libnvinfer.so; empty = FARTHING_TENSORRT or the system's
  std::string cudart;         // path of libcudart.so; empty = FARTHING_CUDART or the system's
  std::string plugins;        // path of libfarthing_tensorrt.so; empty = FARTHING_PLUGINS, or none
  std::int64_t capacity = 0;  // cache slots; 0 = those of the engine
  bool cuda_graphs = false;   // replay the pass of one row as a CUDA graph
  bool hashes = true;         // check the SHA-256 of the engine file
};

// In this order: finds CUDA and asks for a device (TensorRT without one returns a garbage pointer), finds TensorRT, loads the
// plugin library, chooses the engine that was compiled for this graph, version, plugin ABI, context and device, opens it.
// Throws Error(environment) for what is missing here, Error(bundle) when no engine fits.
std::unique_ptr<Backend> open_tensorrt_backend(const Bundle& bundle, const TensorRtOptions& options);

// "10.14" of the headers it was compiled with; empty in a build without TensorRT's headers.
std::string tensorrt_headers();

}  // namespace farthing
