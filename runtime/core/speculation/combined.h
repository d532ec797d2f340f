// Several drafters as one: the best guess of all at each step.
#pragma once

#include <memory>
#include <vector>

#include "draft.h"

namespace farthing {

// All see the text; the draft is that of the one that expects most of its own, by the sum over its nodes of the product of chances on their
// paths. Only that one hears what became of it. `self`, a drafter that guesses with the model itself and so takes longer, is asked where
// it is expected to bring more than the others just did, and more than its own time; null = none.
class CombinedDrafter final : public Drafter {
 public:
  CombinedDrafter(std::vector<std::shared_ptr<Drafter>> quick, std::shared_ptr<Drafter> self);

  const char* name() const override { return "auto"; }
  void begin(std::span<const std::int32_t> tokens) override;
  void observe(std::span<const std::int32_t> tokens) override;
  void propose(const DraftLimits& limits, Draft& draft) override;
  std::int64_t masks(const std::function<double(std::int64_t)>& cost) override;
  void latents(std::span<const float> latents) override;
  double mask_worth() const override { return self_ ? self_->worth() - guessed_ : 0; }
  void verified(const Draft& draft, std::span<const std::int32_t> nodes, std::span<const std::int32_t> path) override {
    chosen_->verified(draft, nodes, path);
  }

 private:
  float ask(Drafter& drafter, const DraftLimits& limits);
  bool worth_asking(float others, double pass_seconds);

  std::vector<std::shared_ptr<Drafter>> quick_;
  std::shared_ptr<Drafter> self_;
  Drafter* chosen_;
  Draft other_;
  std::vector<float> reach_;
  double guessed_ = 0;       // tokens that the quick ones expect to guess right, a mean over the last passes
  double self_seconds_ = 0;  // that self takes, a mean
  std::int64_t left_out_ = 0;
};

}  // namespace farthing
