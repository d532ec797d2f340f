// Scores by outer products, a lane a code: codes of image tokenizers have 4 to 32 numbers, so dot products along them would spend their time on
// sums across lanes. The table is first laid out in panels, [dim][kLanes] for kLanes codes: a hundredth of the work at 256 latents.
//
// A score is one chain of multiply-adds from the code's bias, in the same order wherever a code stands: equal codes have equal scores,
// so ties stay ties. The best score and its panel are kept per lane, and lanes are compared at the very end.
#include "kernel.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "../native/unit_rows.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max(), kNever = -std::numeric_limits<float>::infinity();
constexpr float kShortest = 1e-12f;
constexpr std::size_t kRows = 4,
                      kPanels = 2;  // 4 * 2 accumulators hide the latency of the multiply-add: 4 cycles, 2 units
constexpr std::size_t kTask = 16;   // latents of a task: a block of panels is read from L1 that often
constexpr std::size_t kBlockBytes = 16 << 10;  // half of L1

std::size_t panels_of(std::size_t codes) { return (codes + kLanes * kPanels - 1) / (kLanes * kPanels) * kPanels; }

// panel p, number d of its codes: packed + (p * dim + d) * kLanes; their biases: bias + p * kLanes.
struct Packed {
  std::size_t panels, dim;
  float *bias, *packed;

  Packed(const NearestCodeArgs& a) : panels(panels_of(a.codes)), dim(a.dim) {
    bias = reinterpret_cast<float*>(a.scratch);
    packed = bias + panels * kLanes;
  }
  float* panel(std::size_t p) const { return packed + p * dim * kLanes; }
};

// A code that cannot be compared, or is none, is all zeros with a bias of -Inf.
void pack_panel(const NearestCodeArgs& a, const Packed& to, std::size_t p) {
  float* panel = to.panel(p);
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    const std::size_t code = p * kLanes + lane;
    const float* row = a.table + std::min(code, a.codes - 1) * a.dim;
    const float squares = sum_of_squares(row, a.dim);
    const bool known = code < a.codes && squares <= kLargest;
    const float scale = a.normalize ? 1.0f / std::max(std::sqrt(squares), kShortest) : 1.0f;
    to.bias[code] = !known ? kNever : a.normalize ? 0.0f : -0.5f * squares;
    for (std::size_t d = 0; d < a.dim; ++d) panel[d * kLanes + lane] = known ? row[d] * scale : 0.0f;
  }
}

struct Best {
  Vec score = splat(kNever);
  IntVec panel = {};

  void see(Vec other, std::int32_t at) {
    const IntVec greater = other > score;  // not where it is NaN, nor where it is equal: the lower code stays
    score = (Vec)(((IntVec)other & greater) | ((IntVec)score & ~greater));
    panel = ((at - IntVec{}) & greater) | (panel & ~greater);
  }

  std::int64_t code() const {
    float scores[kLanes];
    store(scores, score);
    std::int64_t best = 0;
    float most = kNever;
    for (int lane = 0; lane < kLanes; ++lane) {
      const std::int64_t code = std::int64_t{panel[lane]} * kLanes + lane;
      if (scores[lane] > most || (scores[lane] == most && most > kNever && code < best)) {
        most = scores[lane], best = code;
      }
    }
    return best;
  }
};

// kRows latents against the panels [begin, end).
void compare(const Packed& t, const float* const* latents, std::size_t begin, std::size_t end, Best* best) {
  Best mine[kRows];
  std::copy_n(best, kRows, mine);
  for (std::size_t p = begin; p < end; p += kPanels) {
    Vec acc[kRows][kPanels];
    for (std::size_t j = 0; j < kPanels; ++j) {
      const Vec bias = load(t.bias + (p + j) * kLanes);
      for (std::size_t i = 0; i < kRows; ++i) acc[i][j] = bias;
    }
    const float *first = t.panel(p), *second = t.panel(p + 1);
    for (std::size_t d = 0; d < t.dim; ++d) {
      const Vec codes[kPanels] = {load(first + d * kLanes), load(second + d * kLanes)};
      for (std::size_t i = 0; i < kRows; ++i) {
        const Vec x = splat(latents[i][d]);
        for (std::size_t j = 0; j < kPanels; ++j) acc[i][j] += x * codes[j];
      }
    }
    for (std::size_t i = 0; i < kRows; ++i) {
      for (std::size_t j = 0; j < kPanels; ++j) mine[i].see(acc[i][j], static_cast<std::int32_t>(p + j));
    }
  }
  std::copy_n(mine, kRows, best);
}

void code_latents(const NearestCodeArgs& a, const Packed& t, std::size_t begin, std::size_t end) {
  const std::size_t wanted = std::max<std::size_t>(1, kBlockBytes / (t.dim * kLanes * sizeof(float) + 1));
  const std::size_t block = (wanted + kPanels - 1) / kPanels * kPanels;
  Best best[kTask];
  for (std::size_t p = 0; p < t.panels; p += block) {
    for (std::size_t first = begin; first < end; first += kRows) {
      const float* rows[kRows];
      for (std::size_t i = 0; i < kRows; ++i) rows[i] = a.latents + std::min(first + i, end - 1) * a.dim;
      compare(t, rows, p, std::min(p + block, t.panels), best + (first - begin));
    }
  }
  for (std::size_t i = begin; i < end; ++i) {
    const bool meant = sum_of_squares(a.latents + i * a.dim, a.dim) <= kLargest;
    a.result[i] = meant ? best[i - begin].code() : 0;
  }
}

}  // namespace

std::size_t nearest_code_scratch(std::size_t codes, std::size_t dim) {
  return panels_of(codes) * kLanes * (dim + 1) * sizeof(float);
}

void nearest_code(const NearestCodeArgs& a, const Parallel& parallel) {
  const Packed packed(a);
  constexpr std::size_t kAtOnce = 64;  // panels a task: some 10 microseconds
  parallel((packed.panels + kAtOnce - 1) / kAtOnce, [&](std::size_t task) {
    const std::size_t end = std::min((task + 1) * kAtOnce, packed.panels);
    for (std::size_t p = task * kAtOnce; p < end; ++p) pack_panel(a, packed, p);
  });
  parallel((a.count + kTask - 1) / kTask,
           [&](std::size_t task) { code_latents(a, packed, task * kTask, std::min((task + 1) * kTask, a.count)); });
}

}  // namespace FARTHING_ISA
}  // namespace farthing
