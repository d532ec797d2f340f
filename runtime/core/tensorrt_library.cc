#include "tensorrt_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <mutex>
#include <vector>

#include "error.h"

namespace farthing {
namespace {

struct Found {
  void* library;
  std::string name;
};

// Opens the first of: path, what the environment variable names, the candidates. Never closed: streams, engines and plugins point
// into the libraries for the life of the process.
Found open_first(const std::string& what, const std::string& path, const char* variable,
                 const std::vector<std::string>& candidates, const std::string& fix) {
  std::vector<std::string> names = candidates;
  if (const char* named = std::getenv(variable); named && *named) names = {named};
  if (!path.empty()) names = {path};
  std::string reasons;
  for (const std::string& name : names) {
    if (void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return {library, name};
    reasons += std::string(reasons.empty() ? "" : "; ") + dlerror();
  }
  refuse(Status::environment, what, "not found (" + reasons + ")", names.back(), fix + ", or set " + variable);
}

template <class Function>
void resolve(const Found& found, const char* symbol, Function& function) {
  function = reinterpret_cast<Function>(dlsym(found.library, symbol));
  if (function == nullptr) {
    refuse(Status::environment, "function " + std::string(symbol) + " of " + found.name, "missing", "present",
           "use the library that belongs to the headers farthing was built with");
  }
}

// Of the one libnvinfer of the process; a plain function pointer cannot carry it.
void* (*create_runtime)(void*, std::int32_t) noexcept = nullptr;

nvinfer1::IRuntime* create(nvinfer1::ILogger& logger) {
  return static_cast<nvinfer1::IRuntime*>(create_runtime(&logger, NV_TENSORRT_VERSION));
}

}  // namespace

void Cuda::check(cudaError_t status, const char* what) const {
  if (status != cudaSuccess)
    throw Error(Status::internal, std::string("CUDA stopped in ") + what + ": " + cudaGetErrorString(status));
}

const Cuda& load_cuda(const std::string& path) {
  static std::mutex mutex;
  static Cuda cuda;
  const std::lock_guard lock(mutex);
  if (cuda.cudaMallocManaged != nullptr) return cuda;
  const std::string major = std::to_string(CUDART_VERSION / 1000);
  const Found found = open_first("CUDA's runtime", path, "FARTHING_CUDART", {"libcudart.so." + major, "libcudart.so"},
                                 "install CUDA " + major);
  Cuda made;
#define FARTHING_CUDA_RESOLVE(name) resolve(found, #name, made.name);
  FARTHING_CUDA_FUNCTIONS(FARTHING_CUDA_RESOLVE)
#undef FARTHING_CUDA_RESOLVE
  int version = 0;
  if (made.cudaRuntimeGetVersion(&version) == cudaSuccess && version / 1000 != CUDART_VERSION / 1000) {
    refuse(Status::environment, "major version of " + found.name, std::to_string(version / 1000), major,
           "build farthing with the CUDA that is installed here");
  }
  cuda = made;
  return cuda;
}

std::int64_t need_device(const Cuda& cuda) {
  int count = 0;
  const cudaError_t status = cuda.cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count < 1) {
    refuse(Status::environment, "number of CUDA devices",
           std::to_string(status == cudaSuccess ? count : 0) + " (" + cuda.cudaGetErrorString(status) + ")",
           "at least 1", "run this on the machine with the GPU, or open the bundle without the TensorRT backend");
  }
  int major = 0, minor = 0;
  cuda.check(cuda.cudaSetDevice(0), "cudaSetDevice");
  cuda.check(cuda.cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
  cuda.check(cuda.cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "cudaDeviceGetAttribute");
  return 10 * major + minor;
}

const TensorRt& load_tensorrt(const std::string& path) {
  static std::mutex mutex;
  static TensorRt tensorrt;
  const std::lock_guard lock(mutex);
  if (tensorrt.create != nullptr) return tensorrt;
  const std::string major = std::to_string(NV_TENSORRT_MAJOR);
  const Found found =
      open_first("TensorRT", path, "FARTHING_TENSORRT", {"libnvinfer.so." + major, "libnvinfer.so"},
                 "install TensorRT " + major + " (on a Jetson: apt-get install libnvinfer" + major + ")");
  std::int32_t (*version)() noexcept = nullptr;
  resolve(found, "getInferLibVersion", version);
  // Since 10: major * 10000 + minor * 100 + patch.
  const std::int32_t number = version();
  const std::string text =
      std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." + std::to_string(number % 100);
  if (number / 10000 != NV_TENSORRT_MAJOR) {
    refuse(Status::environment, "version of " + found.name, text, major + ".x, as the headers farthing was built with",
           "build farthing on this machine, with TENSORRT_ROOT naming its headers");
  }
  resolve(found, "createInferRuntime_INTERNAL", create_runtime);
  tensorrt = {text, &create};
  return tensorrt;
}

std::int64_t plugin_abi_of(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    refuse(Status::environment, "plugin library", std::string("not loaded (") + dlerror() + ")", path,
           "build farthing_tensorrt, or unset FARTHING_PLUGINS");
  }
  const char* (*about)() = nullptr;
  resolve({library, path}, "farthing_tensorrt_about", about);
  const std::string text = about();  // "abi 1; headers 10.14; operators ..."
  if (text.rfind("abi ", 0) != 0) {
    refuse(Status::environment, "plugin library " + path, "of another kind (" + text.substr(0, 40) + ")", "farthing's",
           "build farthing_tensorrt, or unset FARTHING_PLUGINS");
  }
  return std::atoll(text.c_str() + 4);
}

}  // namespace farthing
