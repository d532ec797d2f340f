#include "kernel.h"

#include <algorithm>
#include <cmath>

#include "../native/simd.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

// Rows per task: 32 rows of 2048 floats are about 0.5 MB in and out, some 20 us; less is not worth waking a thread for.
constexpr std::size_t kRowsPerTask = 32;

void one_row(const AddRmsNormArgs& a, std::size_t row) {
  const float* x = a.x + row * a.width;
  const float* residual = a.residual + row * a.width;
  float* total = a.total + row * a.width;
  float* normed = a.normed + row * a.width;
  const std::size_t whole = a.width - a.width % kLanes;
  Vec squares{};
  for (std::size_t i = 0; i < whole; i += kLanes) {
    const Vec t = load(x + i) + load(residual + i);
    store(total + i, t);
    squares += t * t;
  }
  float mean = sum(squares);
  for (std::size_t i = whole; i < a.width; ++i) {
    total[i] = x[i] + residual[i];
    mean += total[i] * total[i];
  }
  const float scale = 1.0f / std::sqrt(mean / static_cast<float>(a.width) + a.epsilon);
  for (std::size_t i = 0; i < whole; i += kLanes)
    store(normed + i, load(total + i) * splat(scale) * load(a.weight + i));
  for (std::size_t i = whole; i < a.width; ++i) normed[i] = total[i] * scale * a.weight[i];
}

}  // namespace

void add_rms_norm(const AddRmsNormArgs& args, const Parallel& parallel) {
  parallel((args.rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::size_t task) {
    const std::size_t end = std::min((task + 1) * kRowsPerTask, args.rows);
    for (std::size_t row = task * kRowsPerTask; row < end; ++row) one_row(args, row);
  });
}

}  // namespace FARTHING_ISA
}  // namespace farthing
