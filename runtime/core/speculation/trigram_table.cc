#include "trigram_table.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "table_file.h"

namespace farthing {

float Successors::total() const {
  float sum = 0;
  for (std::int32_t i = 0; i < count; ++i) sum += scores[static_cast<std::size_t>(i)];
  return sum;
}

TrigramTable::TrigramTable(std::size_t pairs, std::shared_ptr<const TableFile> file)
    : slots_(std::bit_ceil(std::max<std::size_t>(pairs, kWays))), file_(std::move(file)) {}

void TrigramTable::clear() {
  for (Slot& slot : slots_) slot = {};
  clock_ = 0;
}

std::size_t TrigramTable::first_way(std::uint64_t key) const {
  const std::uint64_t mixed = key * 0x9E3779B97F4A7C15u;
  return static_cast<std::size_t>(mixed >> 32) & (slots_.size() - kWays);
}

const Successors* TrigramTable::find(std::int32_t a, std::int32_t b) const {
  const std::uint64_t wanted = key(a, b);
  const std::size_t first = first_way(wanted);
  for (std::size_t i = first; i < first + kWays; ++i) {
    if (slots_[i].key == wanted) return &slots_[i].successors;
  }
  return file_ ? file_->find(a, b) : nullptr;
}

void TrigramTable::reinforce(std::int32_t a, std::int32_t b, std::int32_t c, float step, float cap) {
  const std::uint64_t wanted = key(a, b);
  const std::size_t first = first_way(wanted);
  Slot* slot = &slots_[first];
  for (std::size_t i = first; i < first + kWays; ++i) {
    if (slots_[i].key == wanted) {
      slot = &slots_[i];
      break;
    }
    if (slots_[i].used < slot->used) slot = &slots_[i];
  }
  if (slot->key != wanted) {
    const Successors* known = file_ ? file_->find(a, b) : nullptr;
    *slot = {wanted, 0, known ? *known : Successors{}};
  }
  slot->used = ++clock_;
  Successors& s = slot->successors;
  std::size_t at = 0;
  const auto count = static_cast<std::size_t>(s.count);
  while (at < count && s.ids[at] != c) ++at;
  if (at == count) {
    if (count == Successors::kMost) {
      --at;
    } else {
      ++s.count;
    }
    s.ids[at] = c;
    s.scores[at] = 0;
  }
  s.scores[at] = std::min(s.scores[at] + step, cap);
  // Up to its place.
  for (; at > 0; --at) {
    const bool before =
        s.scores[at] > s.scores[at - 1] || (s.scores[at] == s.scores[at - 1] && s.ids[at] < s.ids[at - 1]);
    if (!before) break;
    std::swap(s.scores[at], s.scores[at - 1]);
    std::swap(s.ids[at], s.ids[at - 1]);
  }
}

}  // namespace farthing
