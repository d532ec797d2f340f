#include "combined.h"

#include <utility>

#include "../clock.h"

namespace farthing {
namespace {

constexpr double kShare = 1.0 / 16;  // weight of the newest observation in a mean
constexpr std::int64_t kRetry = 48;  // drafts after which self, left out for its time, is asked again

}  // namespace

CombinedDrafter::CombinedDrafter(std::vector<std::shared_ptr<Drafter>> quick, std::shared_ptr<Drafter> self)
    : quick_(std::move(quick)), self_(std::move(self)), chosen_(quick_.front().get()) {}

void CombinedDrafter::begin(std::span<const std::int32_t> tokens) {
  for (const auto& drafter : quick_) drafter->begin(tokens);
  if (self_) self_->begin(tokens);
}

void CombinedDrafter::observe(std::span<const std::int32_t> tokens) {
  for (const auto& drafter : quick_) drafter->observe(tokens);
  if (self_) self_->observe(tokens);
}

std::int64_t CombinedDrafter::masks(const std::function<double(std::int64_t)>& cost) {
  return self_ ? self_->masks(cost) : 0;
}

void CombinedDrafter::latents(std::span<const float> latents) {
  if (self_) self_->latents(latents);
}

// Fills other_; what is expected of it.
float CombinedDrafter::ask(Drafter& drafter, const DraftLimits& limits) {
  other_.clear();
  drafter.propose(limits, other_);
  reach_.resize(other_.size());
  float sum = 0;
  for (std::size_t n = 0; n < other_.size(); ++n) {
    const std::int32_t parent = other_.parents[n];
    reach_[n] = other_.chances[n] * (parent < 0 ? 1.0f : reach_[static_cast<std::size_t>(parent)]);
    sum += reach_[n];
  }
  return sum;
}

bool CombinedDrafter::worth_asking(float others, double pass_seconds) {
  const double time = pass_seconds > 0 ? self_seconds_ / pass_seconds : 0;
  const bool worth = self_->worth() - static_cast<double>(others) > time;
  left_out_ = worth ? 0 : left_out_ + 1;
  if (left_out_ < kRetry) return worth;
  left_out_ = 0;
  return true;
}

void CombinedDrafter::propose(const DraftLimits& limits, Draft& draft) {
  float most = 0;
  const auto prefer = [&](Drafter& drafter, float sum) {
    if (sum <= most) return;
    most = sum;
    chosen_ = &drafter;
    std::swap(draft, other_);
  };
  for (const auto& drafter : quick_) prefer(*drafter, ask(*drafter, limits));
  guessed_ += (static_cast<double>(most) - guessed_) * kShare;
  if (!self_ || !worth_asking(most, limits.pass_seconds)) return;
  const double start = wall_seconds();
  const float sum = ask(*self_, limits);
  if (other_.size() > 0) {
    self_seconds_ += (wall_seconds() - start - self_seconds_) * (self_seconds_ > 0 ? kShare : 1);
  }
  prefer(*self_, sum);
}

}  // namespace farthing
