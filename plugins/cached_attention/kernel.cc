#include "kernel.h"

#include "attend.h"

namespace farthing {
namespace FARTHING_ISA {

void cached_attention(const CachedAttentionArgs& a, const Parallel& parallel) { run_attention(a, parallel); }

}  // namespace FARTHING_ISA
}  // namespace farthing
