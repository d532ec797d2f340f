#include "self_drafter.h"

#include <algorithm>

namespace farthing {
namespace {

constexpr double kMemory = 64;       // observations that a rate remembers
constexpr std::int64_t kRetry = 48;  // passes after which a drafter that was given up is tried again

}  // namespace

void SelfDrafter::Rate::saw(bool right) {
  weight = std::min(weight + 1, kMemory);
  mean += ((right ? 1.0 : 0.0) - mean) / weight;
}

std::size_t SelfDrafter::bucket(float chance) {
  return static_cast<std::size_t>(std::clamp(chance, 0.0f, 0.999f) * kBuckets);
}

SelfDrafter::SelfDrafter(Backend& backend) : backend_(backend), most_(backend.drafts()) {
  if (most_ < 1) {
    refuse(Status::request, "draft", "one of the model itself, which has no masks and no head for that",
           "a bundle of farthing export mtp or ftp", "choose another draft");
  }
  const auto most = static_cast<std::size_t>(most_);
  ids_.resize(most), chances_.resize(most), buckets_.resize(most);
  rates_.resize(most * kBuckets), places_.resize(most);
  for (std::size_t i = 0; i < rates_.size(); ++i) {
    rates_[i].mean = (static_cast<double>(i % kBuckets) + 0.5) / static_cast<double>(kBuckets);
  }
}

void SelfDrafter::begin(std::span<const std::int32_t>) { latents_ = {}; }

void SelfDrafter::observe(std::span<const std::int32_t> tokens) {
  if (!tokens.empty()) root_ = tokens.back();
}

void SelfDrafter::propose(const DraftLimits& limits, Draft& draft) {
  if (latents_.empty()) return;
  const bool masked = backend_.masks() > 0;
  const auto width = static_cast<std::size_t>(backend_.latent_size());
  const std::size_t count = masked ? latents_.size() / width : static_cast<std::size_t>(most_);
  const auto wanted = std::min({count, static_cast<std::size_t>(limits.nodes), static_cast<std::size_t>(limits.depth)});
  if (wanted == 0) return;
  backend_.draft_chain(root_, masked ? latents_.first(wanted * width) : latents_, std::span(ids_).first(wanted),
                       std::span(chances_).first(wanted));
  for (std::size_t i = 0; i < wanted; ++i) {
    buckets_[i] = bucket(chances_[i]);
    draft.add(ids_[i], static_cast<std::int32_t>(i) - 1, static_cast<float>(rate(i, buckets_[i]).mean));
  }
}

void SelfDrafter::verified(const Draft&, std::span<const std::int32_t> nodes, std::span<const std::int32_t> path) {
  for (std::size_t i = 0; i < nodes.size() && i <= path.size(); ++i) {
    rate(i, buckets_[i]).saw(i < path.size());
    places_[i].saw(i < path.size());
  }
  if (backend_.masks() > 0) return;  // masks() weighs them against their cost
  double reach = 1;
  worth_ = 0;
  for (const Rate& place : places_) worth_ += reach *= place.mean;
}

std::int64_t SelfDrafter::masks(const std::function<double(std::int64_t)>& cost) {
  if (backend_.masks() == 0) return 0;
  // A mask is a row of this pass, and its token a row of the next: it must bring more than two rows cost.
  double reach = 1;
  std::int64_t count = 0;
  worth_ = 0;
  for (; count < most_; ++count) {
    reach *= places_[static_cast<std::size_t>(count)].mean;
    if (reach <= cost(3 + 2 * count) - cost(1 + 2 * count)) break;
    worth_ += reach;
  }
  if (count > 0) {
    asked_ = 0;
  } else if (++asked_ >= kRetry) {
    asked_ = 0;
    count = 1;
    worth_ = 1;  // what it is worth now is to be seen
  }
  return count;
}

}  // namespace farthing
