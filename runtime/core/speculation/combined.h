// Several drafters as one: the best guess of all at each step.
#pragma once

#include <memory>

#include "draft.h"

namespace farthing {

// All see the text; the draft is that of the one that expects most of its own, by the sum over its nodes of the product of chances on their
// paths. Only that one hears what became of it.
class CombinedDrafter final : public Drafter {
 public:
  explicit CombinedDrafter(std::vector<std::shared_ptr<Drafter>> drafters) : drafters_(std::move(drafters)) {}

  const char* name() const override { return "auto"; }
  void begin(std::span<const std::int32_t> tokens) override {
    for (const auto& drafter : drafters_) drafter->begin(tokens);
  }
  void observe(std::span<const std::int32_t> tokens) override {
    for (const auto& drafter : drafters_) drafter->observe(tokens);
  }
  void propose(const DraftLimits& limits, Draft& draft) override;
  void verified(const Draft& draft, std::span<const std::int32_t> nodes, std::span<const std::int32_t> path) override {
    drafters_[chosen_]->verified(draft, nodes, path);
  }

 private:
  std::vector<std::shared_ptr<Drafter>> drafters_;
  std::size_t chosen_ = 0;
  Draft other_;
  std::vector<float> reach_;
};

}  // namespace farthing
