#include "lookup.h"

#include <algorithm>
#include <bit>

namespace farthing {
namespace {

// Chances before anything was seen, by the length of the match: two tokens happen by accident, eight hardly do.
constexpr float kPriors[] = {0.35f, 0.5f, 0.6f, 0.7f, 0.8f, 0.85f, 0.9f};
constexpr float kPriorWeight = 4;  // observations

}  // namespace

LookupDrafter::LookupDrafter(std::int64_t capacity)
    : mask_(std::bit_ceil(static_cast<std::size_t>(std::max<std::int64_t>(capacity, 16)) * 2) - 1),
      capacity_(static_cast<std::size_t>(capacity) + 1) {
  text_.reserve(capacity_);
  link_.reserve(capacity_);
  heads_.assign(mask_ + 1, -1);
  for (std::size_t length = 0; length < kLengths; ++length) {
    for (std::size_t place = 0; place < kPlaces; ++place) {
      rates_[length * kPlaces + place] = HitRate(kPriors[length], kPriorWeight);
    }
  }
}

std::size_t LookupDrafter::bytes() const {
  return sizeof(*this) + sizeof(std::int32_t) * (text_.capacity() + link_.capacity() + heads_.capacity());
}

// Of the two tokens that end at `last`.
std::size_t LookupDrafter::slot(std::size_t last) const {
  const auto pair = static_cast<std::uint64_t>(static_cast<std::uint32_t>(text_[last - 1])) << 32 |
                    static_cast<std::uint32_t>(text_[last]);
  return static_cast<std::size_t>((pair * 0x9E3779B97F4A7C15u) >> 32) & mask_;
}

void LookupDrafter::add(std::int32_t token) {
  if (text_.size() == capacity_) return;  // a text that began again at a full context: what is known stays
  text_.push_back(token);
  link_.push_back(-1);
  const std::size_t last = text_.size() - 1;
  if (last == 0) return;
  std::int32_t& head = heads_[slot(last)];
  link_[last] = head;
  head = static_cast<std::int32_t>(last);
}

void LookupDrafter::begin(std::span<const std::int32_t> tokens) {
  // The next turn of a conversation begins like the last: only what differs is entered anew.
  const auto same = static_cast<std::size_t>(
      std::mismatch(text_.begin(), text_.end(), tokens.begin(), tokens.end()).first - text_.begin());
  while (text_.size() > same) {
    const std::size_t last = text_.size() - 1;
    if (last > 0) heads_[slot(last)] = link_[last];  // newest first: what is taken away is the head of its list
    text_.pop_back();
    link_.pop_back();
  }
  for (const std::int32_t token : tokens.subspan(same)) add(token);
  drafted_ = 0;
}

void LookupDrafter::observe(std::span<const std::int32_t> tokens) {
  for (const std::int32_t token : tokens) add(token);
}

LookupDrafter::Match LookupDrafter::longest() const {
  Match best;
  if (text_.size() < 3) return best;
  const std::size_t last = text_.size() - 1;
  std::int32_t at = link_[last];  // the newest place before the end itself
  for (std::int32_t tried = 0; at >= 0 && tried < kCandidates; at = link_[static_cast<std::size_t>(at)], ++tried) {
    const auto place = static_cast<std::size_t>(at);
    std::size_t length = 0;
    while (length < kLongest && length <= place && text_[place - length] == text_[last - length]) ++length;
    if (length >= 2 && length > best.length) best = {length, place + 1};
    if (length == kLongest) break;
  }
  return best;
}

std::size_t LookupDrafter::length_bucket(std::size_t length) {
  constexpr std::size_t kAbove[] = {3, 4, 5, 7, 11, 19};
  return static_cast<std::size_t>(std::upper_bound(std::begin(kAbove), std::end(kAbove), length) - std::begin(kAbove));
}

HitRate& LookupDrafter::rate(std::size_t length, std::size_t place) {
  // A guess of a match of n tokens that was right is one of a match of n + 1.
  return rates_[length_bucket(length + place) * kPlaces + std::min(place, kPlaces - 1)];
}

void LookupDrafter::propose(const DraftLimits& limits, Draft& draft) {
  for (std::size_t i = 0; i < drafted_; ++i) rate(length_, i).idle();
  drafted_ = 0;
  const Match match = longest();
  if (match.length == 0) return;
  length_ = match.length;
  const auto most = static_cast<std::size_t>(std::max<std::int64_t>(std::min(limits.nodes, limits.depth), 0));
  // A match that reaches into the end of the text repeats itself: what follows there goes on in the draft.
  const std::size_t period = text_.size() - match.end;
  for (std::size_t i = 0; i < most; ++i) {
    draft.add(text_[match.end + i % period], static_cast<std::int32_t>(i) - 1, rate(length_, i).mean());
  }
  drafted_ = most;
}

void LookupDrafter::verified(const Draft&, std::span<const std::int32_t> nodes, std::span<const std::int32_t> path) {
  // A chain: of the nodes that ran, those behind the first wrong one tell nothing.
  for (std::size_t i = 0; i < nodes.size() && i <= path.size(); ++i) rate(length_, i).saw(i < path.size());
  drafted_ = 0;
}

}  // namespace farthing
