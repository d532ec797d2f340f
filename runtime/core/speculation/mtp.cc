#include "mtp.h"

#include <algorithm>

namespace farthing {
namespace {

constexpr double kMemory = 64;       // observations that a rate remembers
constexpr std::int64_t kRetry = 48;  // passes after which a drafter that was given up is tried again

}  // namespace

void MtpDrafter::Rate::saw(bool right) {
  weight = std::min(weight + 1, kMemory);
  mean += ((right ? 1.0 : 0.0) - mean) / weight;
}

std::size_t MtpDrafter::bucket(float chance) {
  return static_cast<std::size_t>(std::clamp(chance, 0.0f, 0.999f) * kBuckets);
}

MtpDrafter::MtpDrafter(Backend& backend) : backend_(backend), most_(backend.masks()) {
  if (most_ < 1) {
    refuse(Status::request, "draft", "'mtp' for a model without mask tokens", "a bundle of farthing export mtp",
           "choose another draft");
  }
  const auto most = static_cast<std::size_t>(most_);
  ids_.resize(most), chances_.resize(most), buckets_.resize(most);
  rates_.resize(most * kBuckets), places_.resize(most);
  for (std::size_t i = 0; i < rates_.size(); ++i) {
    rates_[i].mean = (static_cast<double>(i % kBuckets) + 0.5) / static_cast<double>(kBuckets);
  }
}

void MtpDrafter::begin(std::span<const std::int32_t>) { latents_ = {}; }

void MtpDrafter::observe(std::span<const std::int32_t> tokens) {
  if (!tokens.empty()) root_ = tokens.back();
}

void MtpDrafter::propose(const DraftLimits& limits, Draft& draft) {
  if (latents_.empty()) return;
  const std::size_t width = static_cast<std::size_t>(backend_.latent_size()), count = latents_.size() / width;
  const auto wanted = std::min({count, static_cast<std::size_t>(limits.nodes), static_cast<std::size_t>(limits.depth)});
  if (wanted == 0) return;
  backend_.draft_chain(root_, latents_.first(wanted * width), std::span(ids_).first(wanted),
                       std::span(chances_).first(wanted));
  for (std::size_t i = 0; i < wanted; ++i) {
    buckets_[i] = bucket(chances_[i]);
    draft.add(ids_[i], static_cast<std::int32_t>(i) - 1, static_cast<float>(rate(i, buckets_[i]).mean));
  }
}

void MtpDrafter::verified(const Draft&, std::span<const std::int32_t> nodes, std::span<const std::int32_t> path) {
  for (std::size_t i = 0; i < nodes.size() && i <= path.size(); ++i) {
    rate(i, buckets_[i]).saw(i < path.size());
    places_[i].saw(i < path.size());
  }
}

std::int64_t MtpDrafter::masks(const std::function<double(std::int64_t)>& cost) {
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
