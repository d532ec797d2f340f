// Device half of farthing::GuidedSample: types, workspace and grid. See plugins/cuda/operator.h.
#include <algorithm>

#include "../cuda/operator.h"
#include "kernel.cuh"

namespace farthing::cuda {
namespace {

constexpr const char* kOp = "GuidedSample";
constexpr std::int64_t kMostThreads = 1024, kMostIds = 1 << 24;

struct GuidedSample {
  static constexpr const char* kName = kOp;

  static void check(const Call& c) {
    const std::int64_t size = c.size("V");
    if (size == 0 || size >= kMostIds) {
      refuse(kOp, "V", std::to_string(size), "1 to " + std::to_string(kMostIds - 1), "check the logits");
    }
  }

  // Uniforms in float16 would be 2^-11 apart, and logits and uniforms have one type.
  static bool supports(std::span<const Type> types) {
    return std::none_of(types.begin(), types.end(), [](Type type) { return type == Type::f16; });
  }

  static std::size_t workspace(const Call& c) {
    return static_cast<std::size_t>(c.size("B") * c.size("M") * c.size("V")) * sizeof(float);
  }

  static void run(const Call& c) {
    const SampleShape s{c.size("M"), static_cast<int>(c.size("V"))};
    const std::int64_t rows = c.size("B") * s.rows;
    if (rows == 0) return;
    const auto threads = static_cast<unsigned>(std::min(kMostThreads, ceil_div(s.size, kWarp) * kWarp));
    launch(guided_sample_kernel, static_cast<unsigned>(rows), threads, sample_shared(static_cast<int>(threads)),
           c.stream, c.in<float>(0), c.in<float>(1), c.in<float>(2), c.in<float>(3), c.in<float>(4),
           c.in<std::int64_t>(5), c.in<float>(6), static_cast<float*>(c.workspace), c.out<std::int64_t>(0),
           c.out<float>(1), s);
  }
};

Registered<GuidedSample> registered;

}  // namespace
}  // namespace farthing::cuda
