// How many drafted codes stand, and the code behind them; see operator.py for the rules.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../native/isa.h"
#include "../native/parallel.h"

namespace farthing {

enum class AcceptMode { exact, grouped, partition, neighbourhood };

struct GroupedAcceptArgs {
  const float* p;             // [length + 1, codes]
  const float* q;             // [length, codes]
  const std::int64_t* draft;  // [length], each below codes, checked by the caller
  const float* uniforms;      // [length + 1]
  const float* embeds;        // [codes, width] or null
  const std::int64_t* table;  // [codes, columns], each below codes; null in modes exact and grouped
  std::int64_t* accepted;     // [1]
  std::int64_t* next;         // [1]
  float* chance;              // [length]
  std::size_t length, codes, width, columns;
  AcceptMode mode;
  std::size_t group_size;
  float prob_tol, dist_tol, delta;
  bool relative;
  std::byte* scratch;  // grouped_accept_scratch() bytes, aligned to 8; contents need not survive
};

// Bytes of scratch: 32 * group_size a draft (grouped), 16 * codes (partition), codes (neighbourhood).
FARTHING_DECLARE_KERNEL(std::size_t grouped_accept_scratch(std::size_t length, std::size_t codes, AcceptMode mode,
                                                           std::size_t group_size))

// Needs length >= 1, codes >= 1, group_size >= 1.
FARTHING_DECLARE_KERNEL(void grouped_accept(const GroupedAcceptArgs& args, const Parallel& parallel))

}  // namespace farthing
