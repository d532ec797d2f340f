// Device half of farthing::AddRMSNorm: types and grid. See plugins/cuda/operator.h.
#include "../cuda/operator.h"
#include "kernel.cuh"

namespace farthing::cuda {
namespace {

constexpr std::int64_t kMostThreads = 256;  // 8 elements a thread at D = 2048

struct AddRmsNorm {
  static constexpr const char* kName = "AddRMSNorm";

  template <class T>
  static void typed(const Call& c) {
    const std::int64_t width = c.size("D"), threads = std::min(kMostThreads, ceil_div(width, kWarp) * kWarp);
    if (width == 0) return;
    launch(add_rms_norm_kernel<T>, static_cast<unsigned>(c.rows()), static_cast<unsigned>(threads), 32 * sizeof(float),
           c.stream, c.in<T>(0), c.in<T>(1), c.in<T>(2), c.out<T>(0), c.out<T>(1), width,
           c.attributes->real("epsilon"));
  }

  static void run(const Call& c) { c.type(0) == Type::f16 ? typed<Half>(c) : typed<float>(c); }
};

Registered<AddRmsNorm> registered;

}  // namespace
}  // namespace farthing::cuda
