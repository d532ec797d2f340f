#include "combined.h"

#include <utility>

namespace farthing {

void CombinedDrafter::propose(const DraftLimits& limits, Draft& draft) {
  float most = 0;
  for (std::size_t i = 0; i < drafters_.size(); ++i) {
    other_.clear();
    drafters_[i]->propose(limits, other_);
    reach_.resize(other_.size());
    float sum = 0;
    for (std::size_t n = 0; n < other_.size(); ++n) {
      const std::int32_t parent = other_.parents[n];
      reach_[n] = other_.chances[n] * (parent < 0 ? 1.0f : reach_[static_cast<std::size_t>(parent)]);
      sum += reach_[n];
    }
    if (sum > most) {
      most = sum;
      chosen_ = i;
      std::swap(draft, other_);
    }
  }
}

}  // namespace farthing
