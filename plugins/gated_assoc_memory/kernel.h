// f = sigmoid(gl) * local + sigmoid(gg) * glob: GAM's mixer, with the convolution's state in and out.
#pragma once

#include <cstddef>

#include "../assoc_memory_read/kernel.h"

namespace farthing {

enum class GamMode { gate, sum, global, local };

struct GatedAssocMemoryArgs {
  const float* n;           // [batch, rows, c]
  const float* conv_state;  // [batch, taps - 1, c]
  const float* conv_w;      // [c, taps]; null in mode global
  const float* conv_b;      // [c] or null
  Memory memory;            // slots null in mode local; c always set
  const void* gate_w;       // [2c, c]; null but in mode gate
  bool gate_half;           // gate_w is float16 bits
  const float* gate_b;      // [2c] or null
  float* f;                 // [batch, rows, c]
  float* state_out;         // [batch, taps - 1, c], or [batch, taps - 1 + rows, c] with window
  float* scratch;           // gated_scratch(...) floats
  std::size_t batch, rows, taps;
  float scale;
  GamMode mode;
  bool window;
};

// The taps turned to [taps, c], the gates of all rows, and what the memory read wants.
inline std::size_t gated_scratch(std::size_t all_rows, std::size_t taps, const Memory& memory) {
  return taps * memory.c + all_rows * 2 * memory.c + memory_scratch(all_rows, memory.m, memory.c);
}

// mem and gate_w are read once for up to kMemoryRows rows, and a row's result does not depend on the others.
FARTHING_DECLARE_KERNEL(void gated_assoc_memory(const GatedAssocMemoryArgs& args, const Parallel& parallel))

}  // namespace farthing
