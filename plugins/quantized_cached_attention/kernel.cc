#include "kernel.h"

#include "../cached_attention/attend.h"

namespace farthing {
namespace FARTHING_ISA {

void quantized_cached_attention(const QuantizedCachedAttentionArgs& a, const Parallel& parallel) {
  run_attention(a, parallel);
}

}  // namespace FARTHING_ISA
}  // namespace farthing
