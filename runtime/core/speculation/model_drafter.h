// Drafts by a second, small model (Leviathan et al. 2022, arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318).
#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <vector>

#include "../bundle.h"
#include "draft.h"

namespace farthing {

class Engine;
struct EngineOptions;

// Runs the small model ahead of the text, greedily, in an engine of its own whose cache follows the text. A guess's chance is how
// often guesses to which the small model gave about that probability were accepted lately.
class ModelDrafter final : public Drafter {
 public:
  // `options` are those of the small model's engine; a context of 0 becomes the target's `capacity` or the most the small model was
  // trained for. Throws Error: not a bundle, or one of another vocabulary than `target`.
  ModelDrafter(const Bundle& target, std::int64_t capacity, const std::filesystem::path& bundle, EngineOptions options);
  ~ModelDrafter() override;

  // Seconds of one of its passes, measured.
  double seconds();
  // Guesses whose reach, the product of their chances, is below this are not worth the pass they take; 0 = all are.
  void stop_below(double reach) { least_ = reach; }

  const char* name() const override { return "model"; }
  void begin(std::span<const std::int32_t> tokens) override;
  void observe(std::span<const std::int32_t> tokens) override;
  void propose(const DraftLimits& limits, Draft& draft) override;
  void verified(const Draft& draft, std::span<const std::int32_t> nodes, std::span<const std::int32_t> path) override;
  double worth() const override { return worth_; }

 private:
  static constexpr std::size_t kBuckets = 10;  // of the small model's probability
  struct Rate {
    double mean = 0.5, weight = 4;  // weight of the prior, in observations
  };
  void catch_up(std::int64_t ahead);

  std::unique_ptr<Engine> engine_;
  std::vector<std::int32_t> text_;  // the last of it; its newest token has run in neither model
  std::size_t sound_ = 0;           // tokens in the engine's cache that are those of the text
  std::array<Rate, kBuckets> rates_;
  std::vector<std::size_t> buckets_;  // of the last draft's nodes
  double least_ = 0;
  double worth_;
};

}  // namespace farthing
