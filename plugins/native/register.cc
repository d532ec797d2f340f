// The entry point ONNX Runtime calls when the library is registered on a session.
#include <new>

#include "bandwidth.h"
#include "isa.h"
#include "ort_op.h"

extern "C" {

__attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                    const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    // No API table of our version, so no status can be made with it; version 1 has CreateStatus at the same place.
    const std::string message = std::string("ONNX Runtime is version ") + base->GetVersionString() +
                                ", expected one with C API " + std::to_string(ORT_API_VERSION) +
                                " or newer; update onnxruntime, or build farthing against older headers";
    return base->GetApi(1)->CreateStatus(ORT_FAIL, message.c_str());
  }
  Ort::InitApi(api);
  try {
    // The domain must outlive every session that uses it: one for the life of the process.
    static Ort::CustomOpDomain* domain = [] {
      auto* made = new Ort::CustomOpDomain("farthing");
      for (OrtCustomOp* op : farthing::ort::table()) made->Add(op);
      return made;
    }();
    Ort::UnownedSessionOptions(options).Add(*domain);
    return nullptr;
  } catch (const std::exception& error) {
    return api->CreateStatus(ORT_FAIL, error.what());
  }
}

// Which build of the kernels this processor gets: "avx512", "avx2", "neon" or "base". For `farthing doctor`.
__attribute__((visibility("default"))) const char* farthing_ops_isa() {
  return farthing::isa_name(farthing::selected_isa());
}

// Bytes a second that one thread reads from memory: the best of some passes over `bytes` on pages as the kernels' weights have them. 0 where
// there is no memory for it. For `farthing roofline`.
__attribute__((visibility("default"))) double farthing_ops_read_bandwidth(std::size_t bytes) {
  try {
    return farthing::read_bandwidth(bytes);
  } catch (const std::bad_alloc&) {
    return 0;
  }
}

}  // extern "C"
