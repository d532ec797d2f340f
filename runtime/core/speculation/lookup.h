// Prompt lookup: what followed the last time the text ended like this.
#pragma once

#include <array>

#include "draft.h"
#include "hit_rate.h"

namespace farthing {

// Finds the longest end of the text that occurred before, of two matches as long the later one, and guesses what followed there.
// (Prompt lookup decoding; Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding.) The chance of a guess is learned by the length
// of the match and the place in the draft.
//
// Places that end with the same two tokens are linked, newest first, and found by a hash of the two; up to kCandidates of them are compared
// backwards. 16 bytes a token of the capacity: id, link, and two slots of the hash.
class LookupDrafter final : public Drafter {
 public:
  explicit LookupDrafter(std::int64_t capacity);

  const char* name() const override { return "lookup"; }
  void begin(std::span<const std::int32_t> tokens) override;
  void observe(std::span<const std::int32_t> tokens) override;
  void propose(const DraftLimits& limits, Draft& draft) override;
  void verified(const Draft& draft, std::span<const std::int32_t> nodes, std::span<const std::int32_t> path) override;

  std::size_t bytes() const;

 private:
  static constexpr std::int32_t kCandidates = 32,
                                kLongest = 32;             // places compared; match beyond which length tells nothing
  static constexpr std::size_t kLengths = 7, kPlaces = 4;  // buckets

  struct Match {
    std::size_t length = 0, end = 0;  // `end`: where what followed begins
  };
  void add(std::int32_t token);
  std::size_t slot(std::size_t last) const;
  Match longest() const;
  static std::size_t length_bucket(std::size_t length);
  HitRate& rate(std::size_t length, std::size_t place);

  std::vector<std::int32_t> text_, link_, heads_;
  std::size_t mask_, capacity_;
  std::array<HitRate, kLengths * kPlaces> rates_;
  std::size_t length_ = 0;   // of the match behind the last draft
  std::size_t drafted_ = 0;  // nodes of the last draft, of which nothing is known yet
};

}  // namespace farthing
