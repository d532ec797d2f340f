// What becomes of the delimiters when a piece is split.
#pragma once

#include <cstddef>
#include <vector>

#include "json_node.h"
#include "pretokenizer.h"

namespace farthing::tokenizer {

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

SplitBehavior read_split_behavior(const JsonNode& node);

// The pieces between and of delimiters, covering a text without gaps.
struct Cut {
  std::size_t begin, end;
  bool delimiter;
};

// Adds the parts of one span of `pieces` to its next spans. `cuts` are positions in the text, in order.
void add_cuts(const std::vector<Cut>& cuts, SplitBehavior behavior, bool leads, Pieces& pieces);

}  // namespace farthing::tokenizer
