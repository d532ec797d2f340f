#include "split.h"

#include "error.h"

namespace farthing::tokenizer {

SplitBehavior read_split_behavior(const JsonNode& node) {
  const std::string name = node.text();
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  node.wrong("Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous", kUsePython);
}

void add_cuts(const std::vector<Cut>& cuts, SplitBehavior behavior, bool leads, Pieces& pieces) {
  // Two neighbouring cuts belong together or not; the rest is joining runs. The rule looks at the flags of the cuts
  // themselves, not of the joined pieces: "--" with MergedWithNext is "-", "-" and not one piece.
  const auto joined = [&](const Cut& left, const Cut& right) {
    switch (behavior) {
      case SplitBehavior::kMergedWithPrevious:
        return right.delimiter && !left.delimiter;
      case SplitBehavior::kMergedWithNext:
        return left.delimiter && !right.delimiter;
      case SplitBehavior::kContiguous:
        return left.delimiter == right.delimiter;
      default:
        return false;
    }
  };
  for (std::size_t i = 0; i < cuts.size();) {
    std::size_t last = i;
    while (last + 1 < cuts.size() && joined(cuts[last], cuts[last + 1])) ++last;
    if (behavior != SplitBehavior::kRemoved || !cuts[i].delimiter) {
      pieces.add(cuts[i].begin, cuts[last].end, leads && cuts[i].begin == cuts[0].begin);
    }
    i = last + 1;
  }
}

}  // namespace farthing::tokenizer
