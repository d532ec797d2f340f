// The merging itself: of all neighbouring pairs, join the one with the lowest rank, leftmost first, until none is left.

#include <algorithm>

#include "bpe.h"

namespace farthing::tokenizer {

// Short pieces (nearly all of them): the rules of all pairs stand in an array that is searched whole. Quadratic, but in
// a few dozen at most, and without any bookkeeping.
void Bpe::merge_short(BpeScratch& scratch) const {
  auto& ids = scratch.ids;
  auto& merges = scratch.merges;  // merges[i] joins ids[i] and ids[i + 1]
  merges.clear();
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) merges.push_back(merges_.get(ids[i], ids[i + 1]));
  while (!merges.empty()) {
    const auto best =
        std::min_element(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) { return a.rank < b.rank; });
    if (best->rank == Merge::kNone) break;
    const auto at = best - merges.begin();
    ids[static_cast<std::size_t>(at)] = best->id;
    ids.erase(ids.begin() + at + 1);
    merges.erase(best);
    const auto i = static_cast<std::size_t>(at);
    if (i > 0) merges[i - 1] = merges_.get(ids[i - 1], ids[i]);
    if (i < merges.size()) merges[i] = merges_.get(ids[i], ids[i + 1]);
  }
}

// Long pieces: a linked list of symbols and a heap of candidate pairs, O(n log n). A candidate is out of date when its
// pair no longer stands there; it is dropped when it comes up.
void Bpe::merge_long(BpeScratch& scratch) const {
  constexpr std::int32_t kGone = -2;
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto later = [](const BpeScratch::Candidate& a, const BpeScratch::Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  const auto n = static_cast<std::int32_t>(scratch.ids.size());
  symbols.clear();
  heap.clear();
  for (std::int32_t i = 0; i < n; ++i) {
    symbols.push_back({scratch.ids[static_cast<std::size_t>(i)], i - 1, i + 1 < n ? i + 1 : -1});
  }
  const auto at = [&](std::int32_t i) -> BpeScratch::Symbol& { return symbols[static_cast<std::size_t>(i)]; };
  const auto candidate = [&](std::int32_t left) -> BpeScratch::Candidate {
    const Merge merge = merges_.get(at(left).id, at(at(left).next).id);
    return {merge.rank, left, merge.id};
  };
  for (std::int32_t i = 0; i + 1 < n; ++i) {
    if (const auto found = candidate(i); found.rank != Merge::kNone) heap.push_back(found);
  }
  std::make_heap(heap.begin(), heap.end(), later);
  const auto offer = [&](std::int32_t left) {
    const auto found = candidate(left);
    if (found.rank == Merge::kNone) return;
    heap.push_back(found);
    std::push_heap(heap.begin(), heap.end(), later);
  };
  while (!heap.empty()) {
    const BpeScratch::Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end(), later);
    heap.pop_back();
    BpeScratch::Symbol& left = at(best.position);
    if (left.next < 0) continue;  // gone, or the last
    if (candidate(best.position).id != best.id) continue;
    const std::int32_t right = left.next;
    left.id = best.id;
    left.next = at(right).next;
    at(right).next = kGone;
    if (left.next >= 0) at(left.next).previous = best.position;
    if (left.previous >= 0) offer(left.previous);
    if (left.next >= 0) offer(best.position);
  }
  scratch.ids.clear();
  for (std::int32_t i = n > 0 ? 0 : -1; i >= 0; i = at(i).next) scratch.ids.push_back(at(i).id);
}

}  // namespace farthing::tokenizer
