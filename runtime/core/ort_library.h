// ONNX Runtime, loaded at run time: nothing of farthing links to it.
#pragma once

#include <string>

// The C++ wrappers find their API table through Ort::InitApi, which load_onnxruntime() calls.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

namespace farthing {

// Loads ONNX Runtime once per process and returns the path it came from. Order: `path` if not empty, then FARTHING_ORT, then
// libonnxruntime.so.1 and libonnxruntime.so of the system. A second call with another path keeps the first library.
// Throws Error(environment).
std::string load_onnxruntime(const std::string& path);

// "1.32.0"; load_onnxruntime() must have succeeded.
const std::string& onnxruntime_version();

// The one environment of the process; load_onnxruntime() must have succeeded.
Ort::Env& ort_environment();

}  // namespace farthing
