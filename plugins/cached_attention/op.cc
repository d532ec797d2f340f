// ONNX Runtime face of farthing::CachedAttention.
#include "kernel.h"
#include "ort_face.h"

namespace farthing {
namespace {

struct CachedAttentionFace {
  using Element = float;
  static constexpr const char* kName = "CachedAttention";
  static auto kernel() { return FARTHING_SELECT(cached_attention); }
};

struct CachedAttentionOp : ort::Op<CachedAttentionOp, AttentionKernel<CachedAttentionFace>> {
  static constexpr const char* kName = CachedAttentionFace::kName;
  static constexpr std::array kInputs{ort::kFloat, ort::kFloat, ort::kFloat, ort::kFloat, ort::kFloat,
                                      ort::kInt64, ort::kFloat, ort::kFloat, ort::kInt64};
  static constexpr std::size_t kRequired = 6;
  static constexpr std::array kOutputs{ort::kFloat, ort::kFloat, ort::kFloat};
};

ort::Registered<CachedAttentionOp> registered;

}  // namespace
}  // namespace farthing
