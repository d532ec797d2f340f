// Two thin products over the packed panels of plugins/linear, on rows that lie anywhere: nothing is gathered or scattered.
//
// A line of 16 weights is multiplied into a strip of rows. A strip is as high as it takes to keep the FMA units busy: 8 chains
// for 4 cycles of latency and 2 units. Rows need a pointer each, and with 8 of them, the panel's and the counter the general
// registers of x86 suffice.
#include "kernel.h"

#include <algorithm>

#include "../linear/kernel.h"
#include "../native/simd.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

constexpr std::size_t kVecs = kLinearPanel / kLanes;
constexpr std::size_t kStrip = 8 / kVecs > 0 ? 8 / kVecs : 1;

// Multiply-adds that make a task worth handing to a thread: about 10 us.
constexpr std::size_t kTaskWork = 512 << 10;
constexpr std::size_t kCopyFloats = 64 << 10;

// acc[r] = sum over p of in[r][p] * panel[p].
template <std::size_t kRows, class Weight>
inline void multiply(const float* const (&in)[kStrip], const Weight* panel, std::size_t depth,
                     Vec (&acc)[kStrip][kVecs]) {
  Vec total[kRows][kVecs] = {};
  for (std::size_t p = 0; p < depth; ++p) {
    Vec line[kVecs];
    for (std::size_t v = 0; v < kVecs; ++v) line[v] = load(panel + v * kLanes);
    panel += kLinearPanel;
    for (std::size_t r = 0; r < kRows; ++r) {
      const Vec one = splat(in[r][p]);
      for (std::size_t v = 0; v < kVecs; ++v) total[r][v] += one * line[v];
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kVecs; ++v) acc[r][v] = total[r][v];
  }
}

template <std::size_t kMost, class Weight>
inline void multiply_of(std::size_t rows, const float* const (&in)[kStrip], const Weight* panel, std::size_t depth,
                        Vec (&acc)[kStrip][kVecs]) {
  if constexpr (kMost > 0) {
    if (rows == kMost) return multiply<kMost>(in, panel, depth, acc);
    multiply_of<kMost - 1>(rows, in, panel, depth, acc);
  }
}

// hidden[first..][panel i of the rank] = scale * x a^T.
template <class Weight>
void down(const GatedLoraArgs& args, std::size_t first, std::size_t rows, std::size_t i) {
  const std::size_t width = linear_panels(args.rank) * kLinearPanel;
  const float* in[kStrip];
  for (std::size_t r = 0; r < rows; ++r) in[r] = args.x + static_cast<std::size_t>(args.rows[first + r]) * args.k;
  Vec acc[kStrip][kVecs];
  multiply_of<kStrip>(rows, in, static_cast<const Weight*>(args.a_panels) + i * kLinearPanel * args.k, args.k, acc);
  for (std::size_t r = 0; r < rows; ++r) {
    float* out = args.hidden + (first + r) * width + i * kLinearPanel;
    for (std::size_t v = 0; v < kVecs; ++v) store(out + v * kLanes, acc[r][v] * splat(args.scale));
  }
}

// y = base + hidden b^T for the outputs of panel i.
template <class Weight>
void up(const GatedLoraArgs& args, std::size_t first, std::size_t rows, std::size_t i) {
  const std::size_t width = linear_panels(args.rank) * kLinearPanel;
  const float* in[kStrip];
  for (std::size_t r = 0; r < rows; ++r) in[r] = args.hidden + (first + r) * width;
  Vec acc[kStrip][kVecs];
  multiply_of<kStrip>(rows, in, static_cast<const Weight*>(args.b_panels) + i * kLinearPanel * args.rank, args.rank,
                      acc);
  const std::size_t col = i * kLinearPanel, columns = std::min(kLinearPanel, args.n - col);
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t at = static_cast<std::size_t>(args.rows[first + r]) * args.n + col;
    if (columns == kLinearPanel) {
      for (std::size_t v = 0; v < kVecs; ++v) {
        store(args.y + at + v * kLanes, load(args.base + at + v * kLanes) + acc[r][v]);
      }
    } else {
      float lanes[kLinearPanel];
      for (std::size_t v = 0; v < kVecs; ++v) store(lanes + v * kLanes, acc[r][v]);
      for (std::size_t c = 0; c < columns; ++c) args.y[at + c] = args.base[at + c] + lanes[c];
    }
  }
}

template <class Weight>
void run(const GatedLoraArgs& args, const Parallel& parallel) {
  const std::size_t strips = (args.count + kStrip - 1) / kStrip;
  const auto each = [&](std::size_t panels, std::size_t depth, auto&& work) {
    const std::size_t per_task =
        std::min(panels, std::max<std::size_t>(kTaskWork / (kStrip * kLinearPanel * depth), 1));
    const std::size_t chunks = (panels + per_task - 1) / per_task;
    parallel(strips * chunks, [&](std::size_t task) {
      const std::size_t first = task / chunks * kStrip, begin = task % chunks * per_task;
      const std::size_t rows = std::min(kStrip, args.count - first);
      for (std::size_t i = begin; i < std::min(begin + per_task, panels); ++i) work(first, rows, i);
    });
  };
  each(linear_panels(args.rank), args.k,
       [&](std::size_t first, std::size_t rows, std::size_t i) { down<Weight>(args, first, rows, i); });
  each(linear_panels(args.n), args.rank,
       [&](std::size_t first, std::size_t rows, std::size_t i) { up<Weight>(args, first, rows, i); });
}

}  // namespace

void gated_lora(const GatedLoraArgs& args, const Parallel& parallel) {
  if (args.y != args.base) {
    const std::size_t floats = args.total * args.n;
    parallel((floats + kCopyFloats - 1) / kCopyFloats, [&](std::size_t task) {
      const std::size_t begin = task * kCopyFloats;
      std::copy_n(args.base + begin, std::min(kCopyFloats, floats - begin), args.y + begin);
    });
  }
  if (args.count == 0) return;
  args.half ? run<std::uint16_t>(args, parallel) : run<float>(args, parallel);
}

}  // namespace FARTHING_ISA
}  // namespace farthing
