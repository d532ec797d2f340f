// Device half of farthing::QuantizedCachedAttention.
#include "../cached_attention/launch.cuh"

namespace farthing::cuda {
namespace {

struct QuantizedCachedAttention : AttentionLaunch<QuantizedCachedAttention, true> {
  static constexpr const char* kName = "QuantizedCachedAttention";
};

Registered<QuantizedCachedAttention> registered;

}  // namespace
}  // namespace farthing::cuda
