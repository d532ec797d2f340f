// The merge rules of BPE: which pairs of tokens join, to what, and how early.
#pragma once

#include <cstdint>
#include <vector>

namespace farthing::tokenizer {

struct Merge {
  static constexpr std::uint32_t kNone = 0xFFFFFFFF;
  std::uint32_t rank = kNone;  // position in the list of merges: lower goes first
  std::int32_t id = -1;        // the token that the pair becomes
};

// A hash table with open addressing: one probe is one cache line in most cases, and this lookup is where BPE spends
// its time. A std::unordered_map takes three times as long.
class MergeTable {
 public:
  explicit MergeTable(std::size_t count = 0) {
    std::size_t size = 16;
    while (size < count * 2) size *= 2;
    slots_.resize(size);
    for (std::size_t s = size; s > 1; s /= 2) --shift_;
  }

  // A pair given twice keeps the later rule, as in the reference implementation.
  void set(std::int32_t left, std::int32_t right, Merge merge) {
    const std::uint64_t key = key_of(left, right);
    Slot& slot = slots_[find_slot(key)];
    slot.key = key;
    slot.merge = merge;
  }

  // The rule for a pair; rank kNone when there is none.
  Merge get(std::int32_t left, std::int32_t right) const { return slots_[find_slot(key_of(left, right))].merge; }

 private:
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};
  struct Slot {
    std::uint64_t key = kEmpty;
    Merge merge;
  };

  static std::uint64_t key_of(std::int32_t left, std::int32_t right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
  }

  std::size_t find_slot(std::uint64_t key) const {
    // Fibonacci hashing: the high bits of the product depend on all bits of the key.
    std::size_t i = static_cast<std::size_t>((key * 0x9E3779B97F4A7C15u) >> shift_);
    while (slots_[i].key != key && slots_[i].key != kEmpty) i = (i + 1) & (slots_.size() - 1);
    return i;
  }

  std::vector<Slot> slots_;
  int shift_ = 64;
};

}  // namespace farthing::tokenizer
