// ONNX Runtime face of farthing::QuantizedCachedAttention.
#include "../cached_attention/ort_face.h"
#include "kernel.h"

namespace farthing {
namespace {

struct QuantizedFace {
  using Element = std::int8_t;
  static constexpr const char* kName = "QuantizedCachedAttention";
  static auto kernel() { return FARTHING_SELECT(quantized_cached_attention); }
};

struct QuantizedCachedAttentionOp : ort::Op<QuantizedCachedAttentionOp, AttentionKernel<QuantizedFace>> {
  static constexpr const char* kName = QuantizedFace::kName;
  static constexpr std::array kInputs{ort::kFloat, ort::kFloat, ort::kFloat, ort::kInt8,  ort::kInt8, ort::kInt64,
                                      ort::kFloat, ort::kFloat, ort::kFloat, ort::kFloat, ort::kInt64};
  static constexpr std::size_t kRequired = 8;
  static constexpr std::array kOutputs{ort::kFloat, ort::kInt8, ort::kInt8};
};

ort::Registered<QuantizedCachedAttentionOp> registered;

}  // namespace
}  // namespace farthing
