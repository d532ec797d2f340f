// Drafts by the model itself: mask tokens and a sampler head (Samragh et al. 2025, arXiv 2507.11851), or the further steps of a head
// that was trained to predict several tokens (Walker 2024, arXiv 2410.18160).
#pragma once

#include <array>

#include "../backend.h"
#include "draft.h"

namespace farthing {

// Makes a chain of what the pass left of the row where the text stopped: latents of the masks that it asked for behind rows, or of
// the row itself. How often its guesses are right it learns by their place in the
// draft and by the probability that the sampler head gave them; both are forgotten slowly, so that it follows the text.
class SelfDrafter final : public Drafter {
 public:
  // `backend` must live as long. Throws Error(request) for a model that has neither.
  explicit SelfDrafter(Backend& backend);

  const char* name() const override { return backend_.masks() > 0 ? "mtp" : "ftp"; }
  void begin(std::span<const std::int32_t> tokens) override;
  void observe(std::span<const std::int32_t> tokens) override;
  void propose(const DraftLimits& limits, Draft& draft) override;
  void verified(const Draft& draft, std::span<const std::int32_t> nodes, std::span<const std::int32_t> path) override;
  std::int64_t masks(const std::function<double(std::int64_t)>& cost) override;
  void latents(std::span<const float> latents) override { latents_ = latents; }
  double worth() const override { return worth_; }

 private:
  static constexpr std::size_t kBuckets = 5;  // of the head's probability
  struct Rate {
    double mean = 0.5, weight = 4;  // weight of the prior, in observations
    void saw(bool right);
  };
  static std::size_t bucket(float chance);
  Rate& rate(std::size_t place, std::size_t bucket) { return rates_[place * kBuckets + bucket]; }

  Backend& backend_;
  std::int64_t most_;
  std::int32_t root_ = 0;
  std::span<const float> latents_;
  std::vector<std::int32_t> ids_;
  std::vector<float> chances_;
  std::vector<std::size_t> buckets_;  // of the last draft's nodes
  std::vector<Rate> rates_, places_;  // by place and bucket; by place alone
  double worth_ = 1;                  // what it is worth is to be seen
  std::int64_t asked_ = 0;
};

}  // namespace farthing
