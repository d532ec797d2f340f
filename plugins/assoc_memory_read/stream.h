// The running softmax over tiles of slots (Milakov and Gimelshein 2018), shared by both memory operators.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "dots.h"
#include "kernel.h"
#include "weighted_sum.h"

namespace farthing {
namespace FARTHING_ISA {
namespace memory {

// Slots whose scores are held at once, and their size as float32. A tile stays in L2 between its two products, so the bank comes from memory
// once.
inline constexpr std::size_t kTileSlots = 256;
inline constexpr std::size_t kTileBytes = 512 << 10;

// Maximum and sum of a block of rows so far; the weighted sums are in acc [rows, c].
struct Running {
  float best[kMemoryRows];
  float total[kMemoryRows];
};

inline float exp_one(float x) { return exp(splat(x))[0]; }

inline void scaled_by(float* row, std::size_t c, float factor) {
  std::size_t i = 0;
  for (; i + kLanes <= c; i += kLanes) store(row + i, load(row + i) * splat(factor));
  for (; i < c; ++i) row[i] *= factor;
}

// Scores of one row and one tile become shares; the row's earlier sums are rescaled where a new maximum came.
inline void softmax_step(float* scores, std::size_t slots, const float* step, float scale, Running& running,
                         std::size_t row, float* acc, std::size_t c) {
  const std::size_t whole = slots - slots % kLanes, padded = (slots + kLanes - 1) / kLanes * kLanes;
  Vec top = splat(running.best[row]);
  for (std::size_t s = 0; s < whole; s += kLanes) {
    Vec v = load(scores + s) * splat(scale);
    if (step) v = v * load(step + s);
    store(scores + s, v);
    top = maximum(top, v);
  }
  for (std::size_t s = whole; s < padded; ++s) {
    scores[s] = s < slots ? scores[s] * scale * (step ? step[s] : 1.0f) : -std::numeric_limits<float>::infinity();
  }
  if (whole < padded) top = maximum(top, load(scores + whole));
  const float best = max_lane(top);
  if (best > running.best[row]) {
    if (running.best[row] != -std::numeric_limits<float>::infinity()) {  // else there are no sums yet
      const float factor = exp_one(running.best[row] - best);
      running.total[row] *= factor;
      scaled_by(acc, c, factor);
    }
    running.best[row] = best;
  }
  Vec total = {};
  for (std::size_t s = 0; s < padded; s += kLanes) {
    Vec p = exp(load(scores + s) - splat(running.best[row]));
    total += p;
    if (step) p = p * (s + kLanes <= slots ? load(step + s) : load_head(step + s, slots - s));
    store(scores + s, p);
  }
  running.total[row] += sum(total);
}

// The tile as float32, which is exact: results are the same bits. The memory is this thread's; it grows to one tile and stays.
template <class W>
const float* widened(const W* tile, std::size_t count) {
  thread_local std::vector<float> room;
  if (room.size() < count) room.resize(count);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(room.data() + i, widen(tile + i));
  if (i < count) store_head(room.data() + i, widen_head(tile + i, count - i), count - i);
  return room.data();
}

// Streams the slots [begin, end) past `rows` <= kMemoryRows rows.
template <class W>
void stream_span(const float* x, std::size_t rows, const Memory& memory, float scale, std::size_t begin,
                 std::size_t end, Running& running, float* acc) {
  const std::size_t c = memory.c;
  std::fill_n(running.best, rows, -std::numeric_limits<float>::infinity());
  std::fill_n(running.total, rows, 0.0f);
  const std::size_t fitting = kTileBytes / (c * sizeof(float)) / 16 * 16;
  const std::size_t most = std::clamp<std::size_t>(fitting, 16, kTileSlots);
  alignas(64) float scores[kMemoryRows * kTileSlots];
  for (std::size_t slot = begin; slot < end; slot += most) {
    const std::size_t slots = std::min(most, end - slot);
    const W* tile = static_cast<const W*>(memory.slots) + slot * c;
    const float* wide = rows >= kWideRows && !std::is_same_v<W, float> ? widened(tile, slots * c) : nullptr;
    wide ? dots(x, rows, c, wide, slots, scores, kTileSlots) : dots(x, rows, c, tile, slots, scores, kTileSlots);
    for (std::size_t r = 0; r < rows; ++r) {
      softmax_step(scores + r * kTileSlots, slots, memory.step ? memory.step + slot : nullptr, scale, running, r,
                   acc + r * c, c);
    }
    wide ? weighted_sum(scores, kTileSlots, rows, wide, slots, c, acc, slot == begin)
         : weighted_sum(scores, kTileSlots, rows, tile, slots, c, acc, slot == begin);
  }
}

inline void span(const float* x, std::size_t rows, const Memory& memory, float scale, std::size_t index,
                 Running& running, float* acc) {
  const std::size_t begin = index * kMemorySpan, end = std::min(begin + kMemorySpan, memory.m);
  switch (memory.type) {
    case MemoryType::float32:
      return stream_span<float>(x, rows, memory, scale, begin, end, running, acc);
    case MemoryType::float16:
      return stream_span<std::uint16_t>(x, rows, memory, scale, begin, end, running, acc);
    case MemoryType::int8:
      return stream_span<std::int8_t>(x, rows, memory, scale, begin, end, running, acc);
  }
}

// Takes the sums of a later span into those of the earlier ones; last: and divides by the total.
inline void merge(std::size_t rows, std::size_t c, Running& into, float* acc, const Running& from, const float* other,
                  bool last) {
  for (std::size_t r = 0; r < rows; ++r) {
    // A NaN in either maximum cannot win the comparison; it is in the totals and comes through there.
    const float best = std::max(into.best[r], from.best[r]);
    float a = exp_one(into.best[r] - best), b = exp_one(from.best[r] - best);
    into.best[r] = best;
    into.total[r] = into.total[r] * a + from.total[r] * b;
    if (last) a /= into.total[r], b /= into.total[r];
    float* to = acc + r * c;
    const float* with = other + r * c;
    std::size_t i = 0;
    for (; i + kLanes <= c; i += kLanes) store(to + i, load(to + i) * splat(a) + load(with + i) * splat(b));
    if (i < c) {
      store_head(to + i, load_head(to + i, c - i) * splat(a) + load_head(with + i, c - i) * splat(b), c - i);
    }
  }
}

// Divides the sums of a bank of one span by their total.
inline void finish(std::size_t rows, std::size_t c, const Running& running, float* acc) {
  for (std::size_t r = 0; r < rows; ++r) scaled_by(acc + r * c, c, 1.0f / running.total[r]);
}

// Memory of this thread for the sums of a later span; grows to one block and stays.
inline float* other_sums(std::size_t count) {
  thread_local std::vector<float> room;
  if (room.size() < count) room.resize(count);
  return room.data();
}

// All slots for a block of rows on this thread.
inline void read_block(const float* x, std::size_t rows, const Memory& memory, float scale, float* y) {
  const std::size_t spans = memory_spans(memory.m);
  Running running, next;
  span(x, rows, memory, scale, 0, running, y);
  if (spans == 1) return finish(rows, memory.c, running, y);
  float* other = other_sums(rows * memory.c);
  for (std::size_t s = 1; s < spans; ++s) {
    span(x, rows, memory, scale, s, next, other);
    merge(rows, memory.c, running, y, next, other, s + 1 == spans);
  }
}

}  // namespace memory
}  // namespace FARTHING_ISA
}  // namespace farthing
