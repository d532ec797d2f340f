// ONNX Runtime face of farthing::SimPrune.
#include <cmath>

#include "../native/ort_op.h"
#include "../native/scratch.h"
#include "kernel.h"

namespace farthing {
namespace {

constexpr const char* kOp = "SimPrune";

struct SimPruneKernel : ort::Kernel<SimPruneKernel> {
  explicit SimPruneKernel(const OrtKernelInfo* info)
      : height(ort::int_attribute(info, "height")),
        width(ort::int_attribute(info, "width")),
        patch_height(ort::int_attribute(info, "patch_height", 2)),
        patch_width(ort::int_attribute(info, "patch_width", 2)),
        prune(ort::int_attribute(info, "prune")),
        beta(ort::float_attribute(info, "beta", 1.0f)),
        alpha(ort::float_attribute(info, "alpha", 0.1f)) {
    const std::pair<const char*, std::int64_t> sizes[] = {
        {"height", height}, {"width", width}, {"patch_height", patch_height}, {"patch_width", patch_width}};
    for (const auto& [name, size] : sizes) {
      if (size < 1 || size > 1 << 15) {
        ort::refuse(kOp, name, std::to_string(size), "1 or more", "give the shape of the feature map");
      }
    }
    fits("patch_height", patch_height, height);
    fits("patch_width", patch_width, width);
    const std::int64_t others = height * width - (height / patch_height) * (width / patch_width);
    if (prune < 1 || prune > others) {
      ort::refuse(kOp, "prune", std::to_string(prune), "1 to " + std::to_string(others) + ", all but the base tokens",
                  "prune less, or leave the node out for 0");
    }
    for (const auto& [name, value] : {std::pair{"beta", beta}, std::pair{"alpha", alpha}}) {
      if (!std::isfinite(value)) {
        ort::refuse(kOp, name, std::to_string(value), "a finite number", "the paper has beta 1 and alpha 0.1");
      }
    }
  }

  static void fits(const char* name, std::int64_t patch, std::int64_t side) {
    if (patch <= side) return;
    ort::refuse(kOp, name, std::to_string(patch), "1 to " + std::to_string(side),
                "a map needs at least one whole patch");
  }

  void compute(OrtKernelContext* context) {
    const ort::View x = ort::input(context, 0), noise = ort::input(context, 1);
    const std::int64_t tokens = height * width;
    if (x.type != ort::kFloat && x.type != ort::kHalf) {
      ort::refuse(kOp, "dtype of x", ort::type_name(x.type), "float32 or float16", "cast it");
    }
    if (x.rank != 3 || x.dim(1) != tokens) {
      ort::refuse(kOp, "x", x.shape(), "[B," + std::to_string(tokens) + ",C]", "check the shape of the feature map");
    }
    if (noise.rank != 2 || noise.dim(0) != x.dim(0) || noise.dim(1) != tokens) {
      ort::refuse(kOp, "noise", noise.shape(), "[" + std::to_string(x.dim(0)) + "," + std::to_string(tokens) + "]",
                  "give one number a token");
    }
    const auto size = [](std::int64_t v) { return static_cast<std::size_t>(v); };
    const std::size_t batch = size(x.dim(0)), n = size(tokens), dim = size(x.dim(2)), kept = n - size(prune);
    const std::int64_t keep_dims[] = {x.dim(0), tokens - prune}, src_dims[] = {x.dim(0), tokens};
    auto* keep = static_cast<std::int64_t*>(ort::output(context, 0, keep_dims));
    auto* src = static_cast<std::int64_t*>(ort::output(context, 1, src_dims));
    static const auto kernel = FARTHING_SELECT(sim_prune);
    static const auto bytes = FARTHING_SELECT(sim_prune_scratch);
    const std::size_t needed = bytes(n, dim);
    // Outputs that nobody asks for are written behind the kernel's own memory.
    std::byte* memory = scratch<SimPruneKernel>(needed + (kept + n) * sizeof(std::int64_t));
    auto* spare = reinterpret_cast<std::int64_t*>(memory + needed);
    const bool half = x.type == ort::kHalf;
    for (std::size_t b = 0; b < batch; ++b) {
      kernel({x.as<std::byte>() + b * n * dim * (half ? 2 : 4), half, noise.as<float>() + b * n,
              keep ? keep + b * kept : spare, src ? src + b * n : spare + kept, size(height), size(width),
              size(patch_height), size(patch_width), dim, size(prune), beta, alpha, memory},
             ort::threads(context));
    }
  }

  std::int64_t height, width, patch_height, patch_width, prune;
  float beta, alpha;
};

struct SimPruneOp : ort::Op<SimPruneOp, SimPruneKernel> {
  static constexpr const char* kName = kOp;
  static constexpr std::array kInputs{ort::kAny, ort::kFloat};
  static constexpr std::size_t kRequired = 2;
  static constexpr std::array kOutputs{ort::kInt64, ort::kInt64};
};

ort::Registered<SimPruneOp> registered;

}  // namespace
}  // namespace farthing
