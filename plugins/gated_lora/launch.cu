// Device half of farthing::GatedLora: rules, workspace, types and grids. See plugins/cuda/operator.h.
#include <cmath>

#include "../cuda/operator.h"
#include "kernel.cuh"

namespace farthing::cuda {
namespace {

constexpr const char* kOp = "GatedLora";
constexpr std::int64_t kThreads = 128;

struct GatedLora {
  static constexpr const char* kName = kOp;

  static void rules(const Attributes& a) {
    if (!std::isfinite(a.real("scale"))) {
      refuse(kOp, "scale", std::to_string(a.real("scale")), "a finite number", "give alpha / rank");
    }
  }

  static void check(const Call& c) {
    if (c.size("R") == 0) refuse(kOp, "a", shape_of(c.inputs[2]), "a rank of 1 or more", "leave the node out instead");
    if (c.type(2) != c.type(3)) {
      refuse(kOp, "dtype of b", name_of(c.type(3)), std::string("that of a, ") + name_of(c.type(2)),
             "cast one of them");
    }
  }

  // One dtype for a and b: TensorRT asks type by type.
  static bool supports(std::span<const Type> types) { return types.size() < 4 || types[2] == types[3]; }

  static std::size_t workspace(const Call& c) {
    return static_cast<std::size_t>(c.size("M") * c.size("R")) * sizeof(float);
  }

  template <class T, class W>
  static void typed(const Call& c) {
    const std::int64_t total = c.rows(), n = c.size("N"), k = c.size("K"), rank = c.size("R"), count = c.size("M");
    copy(c.out<T>(0), c.in<T>(1), static_cast<std::size_t>(total * n) * sizeof(T), c.stream);
    if (count == 0 || n == 0) return;
    auto* hidden = static_cast<float*>(c.workspace);
    const auto* rows = c.in<std::int64_t>(4);
    launch(gated_lora_down_kernel<T, W>, static_cast<unsigned>(ceil_div(count * rank * kWarp, kThreads)),
           static_cast<unsigned>(kThreads), 0, c.stream, c.in<T>(0), c.in<W>(2), rows, hidden, total, count, k, rank,
           c.attributes->real("scale"));
    launch(gated_lora_up_kernel<T, W>, dim3(static_cast<unsigned>(ceil_div(n, kThreads)), static_cast<unsigned>(count)),
           static_cast<unsigned>(kThreads), 0, c.stream, c.in<T>(1), c.in<W>(3), rows, hidden, c.out<T>(0), total, n,
           rank);
  }

  static void run(const Call& c) {
    const bool half_x = c.type(0) == Type::f16, half_w = c.type(2) == Type::f16;
    if (half_x) return half_w ? typed<Half, Half>(c) : typed<Half, float>(c);
    half_w ? typed<float, Half>(c) : typed<float, float>(c);
  }
};

Registered<GatedLora> registered;

}  // namespace
}  // namespace farthing::cuda
