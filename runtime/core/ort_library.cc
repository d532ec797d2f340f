#include "ort_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <mutex>
#include <vector>

#include "error.h"

namespace farthing {
namespace {

std::vector<std::string> candidates(const std::string& path) {
  if (!path.empty()) return {path};
  if (const char* named = std::getenv("FARTHING_ORT"); named && *named) return {named};
  return {"libonnxruntime.so.1", "libonnxruntime.so"};
}

std::string& version() {
  static std::string text;
  return text;
}

}  // namespace

std::string load_onnxruntime(const std::string& path) {
  static std::mutex mutex;
  static std::string loaded;
  const std::lock_guard lock(mutex);
  if (!loaded.empty()) return loaded;
  std::string reasons;
  for (const std::string& name : candidates(path)) {
    // Never closed: sessions, the environment and registered operators point into it for the life of the process.
    void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      reasons += std::string(reasons.empty() ? "" : "; ") + dlerror();
      continue;
    }
    using GetBase = const OrtApiBase* (*)();
    const auto get_base = reinterpret_cast<GetBase>(dlsym(library, "OrtGetApiBase"));
    if (get_base == nullptr) {
      refuse(Status::environment, name, "no ONNX Runtime (it has no OrtGetApiBase)", "libonnxruntime.so",
             "set FARTHING_ORT to the library");
    }
    const OrtApi* api = get_base()->GetApi(ORT_API_VERSION);
    if (api == nullptr) {
      refuse(Status::environment, "ONNX Runtime " + name, std::string("version ") + get_base()->GetVersionString(),
             "one with C API " + std::to_string(ORT_API_VERSION) + " or newer", "update onnxruntime");
    }
    Ort::InitApi(api);
    version() = get_base()->GetVersionString();
    loaded = name;
    return loaded;
  }
  refuse(Status::environment, "ONNX Runtime", "not found (" + reasons + ")", "libonnxruntime.so",
         "pip install onnxruntime, or set FARTHING_ORT to the library");
}

const std::string& onnxruntime_version() { return version(); }

Ort::Env& ort_environment() {
  // Leaked on purpose: destroying it at exit races with ONNX Runtime's own static destructors.
  static auto* environment = new Ort::Env(ORT_LOGGING_LEVEL_ERROR, "farthing");
  return *environment;
}

}  // namespace farthing
