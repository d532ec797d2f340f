// The rows of a pass that verifies a draft.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "draft.h"

namespace farthing {

// Row 0 is the newest token of the text (the root), the others are the nodes of the draft that were chosen to run, parents first.
class Plan {
 public:
  explicit Plan(std::int64_t most_rows);

  // `nodes`: ascending, closed under parents.
  void set(std::int32_t root, const Draft& draft, std::span<const std::int32_t> nodes);

  std::size_t rows() const { return ids_.size(); }
  std::span<const std::int32_t> ids() const { return ids_; }
  std::span<const std::int32_t> parents() const { return parents_; }  // row before a row; -1 for the root
  std::span<const std::int32_t> depths() const { return depths_; }    // 0 for the root
  std::span<const std::int32_t> nodes() const { return nodes_; }      // node of row i + 1
  bool chain() const { return chain_; }

  // Mask tokens, `count` behind each row of `where` (ascending): a block is what its row sees, the masks before one, and itself.
  void add_masks(std::int64_t count, std::span<const std::int32_t> where);
  std::int64_t masks() const { return masks_; }
  std::span<const std::int32_t> masked_rows() const { return masked_; }
  // Rows with the masks, which stand behind all others.
  std::size_t all_rows() const { return ids_.size() + masked_.size() * static_cast<std::size_t>(masks_); }
  // Place of row's block among the blocks, or -1.
  std::int32_t block(std::int32_t row) const;

  // The row behind `row` that says `id`, or -1.
  std::int32_t child(std::int32_t row, std::int32_t id) const;

 private:
  std::vector<std::int32_t> ids_, parents_, depths_, nodes_, row_of_, masked_;
  std::int64_t masks_ = 0;
  bool chain_ = true;
};

// Which nodes of a draft run. `reach` of a node is the product of the chances on its path, the probability that it will be accepted.
// Nodes are taken by falling reach for as long as (1 + sum of reach) / T(1 + nodes), tokens per second, rises.
class NodeChoice {
 public:
  explicit NodeChoice(std::int64_t most_nodes);

  // `relative(rows)` = T(rows) / T(1). `margin`: what the gain must at least be, as a share of plain decoding. Returns the nodes,
  // ascending; none where plain decoding is expected to be as fast. expected() is then the sum of reach of those taken.
  template <class Relative>
  std::span<const std::int32_t> choose(const Draft& draft, double margin, const Relative& relative) {
    rank(draft);
    double sum = 0, best = 1 + margin;
    std::size_t taken = 0;
    expected_ = 0;
    for (std::size_t n = 0; n < order_.size(); ++n) {
      sum += reach_[static_cast<std::size_t>(order_[n])];
      const double value = (1 + sum) / relative(static_cast<std::int64_t>(n) + 2);
      if (value > best) {
        best = value;
        taken = n + 1;
        expected_ = sum;
      }
    }
    return take(taken);
  }
  // All of them.
  std::span<const std::int32_t> all(const Draft& draft);
  double expected() const { return expected_; }
  float reach(std::int32_t node) const { return reach_[static_cast<std::size_t>(node)]; }

 private:
  void rank(const Draft& draft);
  std::span<const std::int32_t> take(std::size_t count);

  std::vector<float> reach_;
  std::vector<std::int32_t> order_;
  double expected_ = 0;
};

}  // namespace farthing
