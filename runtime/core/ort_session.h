// What every ONNX Runtime backend shares: session options and checks of its options.
#pragma once

#include "ort_backend.h"
#include "ort_library.h"

namespace farthing {

Ort::SessionOptions ort_session_options(const OrtOptions& options);

// The graph of a constant-state model (Bundle::state); made by open_ort_backend.
std::unique_ptr<Backend> open_state_backend(const Bundle& bundle, const OrtOptions& options);

}  // namespace farthing
