// y[r] = softmax(scale * x[r] . mem^T) mem for rows of width c and a bank of m slots; keys and values are the same matrix.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "../native/isa.h"
#include "../native/parallel.h"

namespace farthing {

enum class MemoryType { float32, float16, int8 };

struct Memory {
  const void* slots;  // [m, c]
  const float* step;  // [m] for int8: slot i is step[i] * slots[i]; else null
  MemoryType type;
  std::size_t m, c;
};

struct AssocMemoryReadArgs {
  const float* x;  // [rows, c]
  Memory memory;
  float* y;        // [rows, c]
  float* scratch;  // memory_scratch(...) floats
  std::size_t rows;
  float scale;
  std::size_t top_k;  // 0 = all slots
};

// Rows that share one pass over the bank: 48 * 512 * 4 B of sums and as much of x stay in L2 beside a tile of slots.
inline constexpr std::size_t kMemoryRows = 48;
// Slots of one span: spans are what threads share when there are few rows, and their results are merged in order. A fixed number, so that
// results do not depend on the number of threads.
inline constexpr std::size_t kMemorySpan = 256;

inline std::size_t memory_spans(std::size_t m) { return (m + kMemorySpan - 1) / kMemorySpan; }

// Sums of the spans but the first, which uses y, for up to kMemoryRows rows: the spans run at once. More rows need none.
inline std::size_t memory_scratch(std::size_t rows, std::size_t m, std::size_t c) {
  return rows <= kMemoryRows ? rows * c * (memory_spans(m) - 1) : 0;
}

// The bank is read once for up to kMemoryRows rows, and a row's result does not depend on the others.
FARTHING_DECLARE_KERNEL(void assoc_memory_read(const AssocMemoryReadArgs& args, const Parallel& parallel))

}  // namespace farthing
