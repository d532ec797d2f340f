// What every ONNX Runtime backend shares: session options and checks of its options.
#pragma once

#include "ort_backend.h"
#include "ort_library.h"

namespace farthing {

Ort::SessionOptions ort_session_options(const OrtOptions& options);

// The same for graphs that run now and then, one at a time: they work in memory that all of them share, so that a bundle with a graph for
// every number of rows needs what the largest of them needs, not the sum.
Ort::SessionOptions ort_shared_session_options(const OrtOptions& options);

// The graph of a constant-state model (Bundle::state); made by open_ort_backend.
std::unique_ptr<Backend> open_state_backend(const Bundle& bundle, const OrtOptions& options);

}  // namespace farthing
