#include "kernel.h"

#include <algorithm>

#include "../native/simd.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

constexpr std::size_t kRowsPerTask = 16;  // about 20 us of exponentials at f = 1536

inline Vec silu(Vec x) { return x / (splat(1.0f) + exp(-x)); }

void one_row(const float* gate, const float* up, float* y, std::size_t f) {
  const std::size_t whole = f - f % kLanes;
  for (std::size_t i = 0; i < whole; i += kLanes) store(y + i, silu(load(gate + i)) * load(up + i));
  if (whole < f) {
    float lanes[kLanes];
    store(lanes, silu(load_head(gate + whole, f - whole)) * load_head(up + whole, f - whole));
    std::copy(lanes, lanes + (f - whole), y + whole);
  }
}

}  // namespace

void swiglu(const SwigluArgs& args, const Parallel& parallel) {
  parallel((args.rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::size_t task) {
    const std::size_t end = std::min((task + 1) * kRowsPerTask, args.rows);
    for (std::size_t row = task * kRowsPerTask; row < end; ++row) {
      const float* gate = args.gate_up + row * 2 * args.f;
      one_row(gate, gate + args.f, args.y + row * args.f, args.f);
    }
  });
}

}  // namespace FARTHING_ISA
}  // namespace farthing
