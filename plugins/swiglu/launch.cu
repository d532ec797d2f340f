// Device half of farthing::SwiGLU: types and grid. See plugins/cuda/operator.h.
#include "../cuda/operator.h"
#include "kernel.cuh"

namespace farthing::cuda {
namespace {

constexpr std::int64_t kThreads = 128;
constexpr std::int64_t kMostGridRows = 65535;  // of gridDim.y

struct Swiglu {
  static constexpr const char* kName = "SwiGLU";

  template <class T>
  static void typed(const Call& c) {
    const std::int64_t rows = c.rows(), width = c.size("F");
    const dim3 grid(static_cast<unsigned>(ceil_div(width, kThreads)),
                    static_cast<unsigned>(std::min(rows, kMostGridRows)));
    launch(swiglu_kernel<T>, grid, static_cast<unsigned>(kThreads), 0, c.stream, c.in<T>(0), c.out<T>(0), rows, width);
  }

  static void run(const Call& c) { c.type(0) == Type::f16 ? typed<Half>(c) : typed<float>(c); }
};

Registered<Swiglu> registered;

}  // namespace
}  // namespace farthing::cuda
