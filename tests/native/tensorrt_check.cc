// Loads CUDA and TensorRT as the backend does: tensorrt_check device CUDART | version LIBNVINFER | symbols | open BUNDLE
#include <cstdint>
#include <iostream>
#include <string>

#include "bundle.h"
#include "error.h"
#include "tensorrt_backend.h"
#include "tensorrt_library.h"

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "", path = argc > 2 ? argv[2] : "";
  try {
    if (what == "device") {
      std::cout << farthing::need_device(farthing::load_cuda(path)) << "\n";
    } else if (what == "version") {
      std::cout << farthing::load_tensorrt(path).version << "\n";
    } else if (what == "symbols") {
      // Linked, not looked up: what the backend asks dlsym for exists in this TensorRT under these names and types.
      std::cout << getInferLibVersion() << " " << (reinterpret_cast<std::uintptr_t>(&createInferRuntime_INTERNAL) != 0)
                << "\n";
    } else if (what == "open") {
      farthing::open_tensorrt_backend(farthing::open_bundle(path, true), {});
      std::cout << "opened\n";
    } else {
      return 2;
    }
    return 0;
  } catch (const farthing::Error& error) {
    std::cout << static_cast<int>(error.status()) << " " << error.what() << "\n";
    return 1;
  }
}
