// Device half of farthing::CachedAttention.
#include "launch.cuh"

namespace farthing::cuda {
namespace {

struct CachedAttention : AttentionLaunch<CachedAttention, false> {
  static constexpr const char* kName = "CachedAttention";
};

Registered<CachedAttention> registered;

}  // namespace
}  // namespace farthing::cuda
