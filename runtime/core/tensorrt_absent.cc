// In place of tensorrt_backend.cc where TensorRT's or CUDA's headers were not found.
#include "error.h"
#include "tensorrt_backend.h"

namespace farthing {

std::unique_ptr<Backend> open_tensorrt_backend(const Bundle&, const TensorRtOptions&) {
  refuse(Status::environment, "TensorRT backend", "not part of this build",
         "built where TensorRT's and CUDA's headers are",
         "install libnvinfer-dev and the CUDA toolkit, or set TENSORRT_ROOT, and build farthing again");
}

std::string tensorrt_headers() { return ""; }

}  // namespace farthing
