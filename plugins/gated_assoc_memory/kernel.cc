// Few rows (decoding): spans of the bank and blocks of gate rows are tasks of one parallel region, then the rows are mixed. Many
// rows (prefill): a task takes a block of rows through all of it, so that its sums stay in L2.
#include "kernel.h"

#include <cstring>

#include "../assoc_memory_read/stream.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

using memory::Running;

constexpr std::size_t kMostSpans = 64;
constexpr std::size_t kGateCols =
    128;  // gate rows of one task: 256 KiB at c = 512, which stay in L2 while activations pass

struct Scratch {
  float *taps, *gates, *read;
};

Scratch split(const GatedAssocMemoryArgs& a) {
  const std::size_t c = a.memory.c;
  float* gates = a.scratch + a.taps * c;
  return {a.scratch, gates, gates + a.batch * a.rows * 2 * c};
}

// [c, taps] as the checkpoint has it to [taps, c], so that channels are lanes.
void turn(const GatedAssocMemoryArgs& a, float* taps) {
  for (std::size_t i = 0; i < a.memory.c; ++i) {
    for (std::size_t j = 0; j < a.taps; ++j) taps[j * a.memory.c + i] = a.conv_w[i * a.taps + j];
  }
}

void gate_columns(const GatedAssocMemoryArgs& a, std::size_t begin, std::size_t rows, std::size_t col, float* gates) {
  const std::size_t c = a.memory.c, cols = std::min(kGateCols, 2 * c - col);
  const float* x = a.n + begin * c;
  float* out = gates + begin * 2 * c + col;
  if (a.gate_half) {
    const auto* w = static_cast<const std::uint16_t*>(a.gate_w) + col * c;
    if (rows >= memory::kWideRows) return memory::dots(x, rows, c, memory::widened(w, cols * c), cols, out, 2 * c);
    memory::dots(x, rows, c, w, cols, out, 2 * c);
  } else {
    memory::dots(x, rows, c, static_cast<const float*>(a.gate_w) + col * c, cols, out, 2 * c);
  }
}

inline Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exp(splat(0.0f) - x)); }

// Up to a vector of channels; `at` tells whole vectors from the tail.
struct Lanes {
  std::size_t count;
  Vec get(const float* p) const { return count == kLanes ? load(p) : load_head(p, count); }
  void put(float* p, Vec v) const {
    if (count == kLanes) return store(p, v);
    float lanes[kLanes];
    store(lanes, v);
    std::memcpy(p, lanes, count * sizeof(float));
  }
};

// The row of [conv_state; n] that is `back` rows before row (b, t).
const float* earlier(const GatedAssocMemoryArgs& a, std::size_t b, std::size_t t, std::size_t back) {
  const std::size_t c = a.memory.c;
  if (t >= back) return a.n + (b * a.rows + t - back) * c;
  return a.conv_state + (b * (a.taps - 1) + (a.taps - 1) - (back - t)) * c;
}

// f holds the memory's part; the convolution and the gates are applied here.
void mix(const GatedAssocMemoryArgs& a, std::size_t row, const Scratch& scratch) {
  const std::size_t c = a.memory.c, b = row / a.rows, t = row % a.rows;
  float* f = a.f + row * c;
  if (a.mode == GamMode::global) return;
  const float* gates = scratch.gates + row * 2 * c;
  for (std::size_t i = 0; i < c; i += kLanes) {
    const Lanes lanes{std::min<std::size_t>(kLanes, c - i)};
    Vec local = a.conv_b ? lanes.get(a.conv_b + i) : Vec{};
    for (std::size_t j = 0; j < a.taps; ++j) {
      local += lanes.get(scratch.taps + j * c + i) * lanes.get(earlier(a, b, t, a.taps - 1 - j) + i);
    }
    if (a.mode == GamMode::local) {
      lanes.put(f + i, local);
      continue;
    }
    Vec glob = lanes.get(f + i);
    if (a.mode == GamMode::gate) {
      Vec gl = lanes.get(gates + i), gg = lanes.get(gates + c + i);
      if (a.gate_b) {
        gl += lanes.get(a.gate_b + i);
        gg += lanes.get(a.gate_b + c + i);
      }
      local = local * sigmoid(gl);
      glob = glob * sigmoid(gg);
    }
    lanes.put(f + i, local + glob);
  }
}

void write_state(const GatedAssocMemoryArgs& a) {
  const std::size_t c = a.memory.c, kept = a.taps - 1;
  for (std::size_t b = 0; b < a.batch; ++b) {
    const float *state = a.conv_state + b * kept * c, *n = a.n + b * a.rows * c;
    if (a.window) {
      float* out = a.state_out + b * (kept + a.rows) * c;
      std::copy_n(state, kept * c, out);
      std::copy_n(n, a.rows * c, out + kept * c);
      continue;
    }
    float* out = a.state_out + b * kept * c;
    const std::size_t old = a.rows < kept ? kept - a.rows : 0;
    std::memmove(out, state + (kept - old) * c,
                 old * c * sizeof(float));  // memmove: state in and out may be one buffer
    std::copy_n(n + (a.rows - (kept - old)) * c, (kept - old) * c, out + old * c);
  }
}

void few_rows(const GatedAssocMemoryArgs& a, const Scratch& scratch, std::size_t spans, std::size_t gate_tasks,
              const Parallel& parallel) {
  const std::size_t c = a.memory.c, all = a.batch * a.rows;
  Running running[kMostSpans];
  const auto sums = [&](std::size_t s) { return s == 0 ? a.f : scratch.read + (s - 1) * all * c; };
  parallel(spans + gate_tasks, [&](std::size_t task) {
    if (task < spans) return memory::span(a.n, all, a.memory, a.scale, task, running[task], sums(task));
    gate_columns(a, 0, all, (task - spans) * kGateCols, scratch.gates);
  });
  if (spans > 0) {
    for (std::size_t s = 1; s < spans; ++s) {
      memory::merge(all, c, running[0], a.f, running[s], sums(s), s + 1 == spans);
    }
    if (spans == 1) memory::finish(all, c, running[0], a.f);
  }
  for (std::size_t row = 0; row < all; ++row) mix(a, row, scratch);
}

}  // namespace

void gated_assoc_memory(const GatedAssocMemoryArgs& args, const Parallel& parallel) {
  const Scratch scratch = split(args);
  const std::size_t c = args.memory.c, all = args.batch * args.rows;
  if (args.mode != GamMode::global) turn(args, scratch.taps);
  const std::size_t spans = args.mode == GamMode::local ? 0 : memory_spans(args.memory.m);
  const std::size_t gate_tasks = args.mode == GamMode::gate ? (2 * c + kGateCols - 1) / kGateCols : 0;
  if (all <= kMemoryRows && spans <= kMostSpans && spans + gate_tasks > 0) {
    few_rows(args, scratch, spans, gate_tasks, parallel);
  } else {
    parallel((all + kMemoryRows - 1) / kMemoryRows, [&](std::size_t task) {
      const std::size_t begin = task * kMemoryRows, rows = std::min(kMemoryRows, all - begin), at = begin * c;
      if (spans > 0) memory::read_block(args.n + at, rows, args.memory, args.scale, args.f + at);
      for (std::size_t g = 0; g < gate_tasks; ++g) gate_columns(args, begin, rows, g * kGateCols, scratch.gates);
      for (std::size_t row = begin; row < begin + rows; ++row) mix(args, row, scratch);
    });
  }
  write_state(args);  // last: the rows above still read the old state, which may be the same buffer
}

}  // namespace FARTHING_ISA
}  // namespace farthing
