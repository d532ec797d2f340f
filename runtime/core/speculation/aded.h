// Adaptive draft-verification: a search over a table of tri-grams that follows the text (Liu et al. 2024, arXiv 2407.12021).
#pragma once

#include <array>

#include "draft.h"
#include "hit_rate.h"
#include "table_file.h"
#include "trigram_table.h"

namespace farthing {

// The text's last 16 tokens are entered into the table before every draft, so a tri-gram counts for as long as it is among them; the
// prompt is entered once. A PUCT search from the last two tokens visits what is likely to follow, and the most visited nodes are the
// draft. Priors are scores divided by their sum (scores grow beyond 1), successors have a fixed order, and the search draws no random
// numbers: it goes down the likeliest successors where the original samples. Chances are learned by prior and depth.
// The table holds four pairs a token of the capacity, at most 65536: 8 MB at most, beside a file's.
class AdedDrafter final : public Drafter {
 public:
  // `file`: what is known before the text, or null.
  explicit AdedDrafter(std::int64_t capacity, std::shared_ptr<const TableFile> file = nullptr);

  const char* name() const override { return "aded"; }
  void begin(std::span<const std::int32_t> tokens) override;
  void observe(std::span<const std::int32_t> tokens) override;
  void propose(const DraftLimits& limits, Draft& draft) override;
  void verified(const Draft& draft, std::span<const std::int32_t> nodes, std::span<const std::int32_t> path) override;

  std::size_t bytes() const { return sizeof(*this) + table_.bytes() + tree_.capacity() * sizeof(Node); }

 private:
  static constexpr std::size_t kWindow = 16;                    // tokens that are entered before a draft
  static constexpr std::int32_t kIterations = 150, kDepth = 4;  // of the search
  static constexpr std::size_t kPriors = 8, kDepths = kDepth;   // buckets of chances
  static constexpr float kStep = 0.04f, kCap = 3.0f;
  static constexpr double kC1 = 32, kC2 = 8;  // of PUCT

  struct Node {
    std::int32_t token, parent, depth;
    float prior;
    std::int32_t first = -1, count = 0;  // children; first -1: not looked up yet
    std::int32_t visits = 0;
    float score = 0;
  };
  void enter(std::size_t from);
  void expand(std::int32_t node);
  std::int32_t select(std::int32_t node) const;
  float descend(std::int32_t node, std::int32_t depth) const;
  void search(std::int32_t depth);
  std::int32_t before(std::int32_t node) const;
  HitRate& rate(const Node& node);

  std::vector<std::int32_t> text_;
  TrigramTable table_;
  std::vector<Node> tree_;             // 0 is the newest token
  std::vector<std::int32_t> drafted_;  // node of each drafted token
  std::vector<std::int32_t> order_, place_;
  std::array<HitRate, kPriors * kDepths> rates_;
};

}  // namespace farthing
