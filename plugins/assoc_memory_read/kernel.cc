// The bank streams past blocks of rows. Few rows: one task a span of slots, merged in order. Many: one task a block of rows.
#include "kernel.h"

#include <vector>

#include "stream.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

using memory::Running;

constexpr std::size_t kMostSpans = 64;  // beyond 16384 slots the rows of a call share a thread

void few_rows(const AssocMemoryReadArgs& a, std::size_t spans, const Parallel& parallel) {
  const std::size_t c = a.memory.c;
  Running running[kMostSpans];
  const auto sums = [&](std::size_t s) { return s == 0 ? a.y : a.scratch + (s - 1) * a.rows * c; };
  parallel(spans, [&](std::size_t s) { memory::span(a.x, a.rows, a.memory, a.scale, s, running[s], sums(s)); });
  for (std::size_t s = 1; s < spans; ++s)
    memory::merge(a.rows, c, running[0], a.y, running[s], sums(s), s + 1 == spans);
}

// The k best slots of one row by score, lowest index first among equals, kept sorted while the bank streams by.
struct Best {
  float* score;        // [k]
  std::size_t* index;  // [k]
  std::size_t k, count = 0;

  void see(float value, std::size_t slot) {
    if (count == k && !(value > score[k - 1])) return;
    std::size_t at = count < k ? count++ : k - 1;
    for (; at > 0 && value > score[at - 1]; --at) {
      score[at] = score[at - 1];
      index[at] = index[at - 1];
    }
    score[at] = value;
    index[at] = slot;
  }
};

template <class W>
void top_row(const AssocMemoryReadArgs& a, std::size_t row) {
  const std::size_t c = a.memory.c, k = a.top_k;
  const W* bank = static_cast<const W*>(a.memory.slots);
  const float *x = a.x + row * c, *step = a.memory.step;
  thread_local std::vector<float> score;  // grows once per thread
  thread_local std::vector<std::size_t> index;
  if (score.size() < k) score.resize(k), index.resize(k);
  Best best{score.data(), index.data(), k};
  float tile[memory::kTileSlots];
  for (std::size_t slot = 0; slot < a.memory.m; slot += memory::kTileSlots) {
    const std::size_t slots = std::min(memory::kTileSlots, a.memory.m - slot);
    memory::dots(x, 1, c, bank + slot * c, slots, tile, memory::kTileSlots);
    for (std::size_t s = 0; s < slots; ++s) {
      best.see(tile[s] * a.scale * (step ? step[slot + s] : 1.0f), slot + s);
    }
  }
  float* y = a.y + row * c;
  std::fill_n(y, c, 0.0f);
  float total = 0;
  for (std::size_t i = 0; i < k; ++i) {
    const float p = memory::exp_one(best.score[i] - best.score[0]);
    total += p;
    const float share = step ? p * step[best.index[i]] : p;
    memory::sum_row(&share, bank + best.index[i] * c, 1, c, y);
  }
  memory::scaled_by(y, c, 1.0f / total);
}

}  // namespace

void assoc_memory_read(const AssocMemoryReadArgs& args, const Parallel& parallel) {
  if (args.top_k > 0 && args.top_k < args.memory.m) {
    return parallel(args.rows, [&](std::size_t row) {
      switch (args.memory.type) {
        case MemoryType::float32:
          return top_row<float>(args, row);
        case MemoryType::float16:
          return top_row<std::uint16_t>(args, row);
        case MemoryType::int8:
          return top_row<std::int8_t>(args, row);
      }
    });
  }
  const std::size_t spans = memory_spans(args.memory.m);
  if (args.rows <= kMemoryRows && spans > 1 && spans <= kMostSpans) return few_rows(args, spans, parallel);
  parallel((args.rows + kMemoryRows - 1) / kMemoryRows, [&](std::size_t task) {
    const std::size_t begin = task * kMemoryRows, rows = std::min(kMemoryRows, args.rows - begin);
    const std::size_t at = begin * args.memory.c;
    memory::read_block(args.x + at, rows, args.memory, args.scale, args.y + at);
  });
}

}  // namespace FARTHING_ISA
}  // namespace farthing
