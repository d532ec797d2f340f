// One row against many: what a window costs when few of its rows are picked. Included by kernel.cc alone, once per instruction set.
#pragma once

#include <algorithm>
#include <cstddef>

#include "../native/row_dots.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

constexpr std::size_t kDotRowCols = 8;  // chains at once: two multiply-adds a cycle, four cycles long

// out[j] = a . b(j) for j < cols; out has room for `cols` rounded up to kDotRowCols. Rows as in dot_strip, of at most kDotDepth: the same
// chain of multiply-adds and the same reduction as in its tiles, so the same bits.
template <class B>
inline void dot_row(const float* a, B&& b, std::size_t cols, std::size_t depth, float* out) {
  for (std::size_t col = 0; col < cols; col += kDotRowCols) {
    const float* right[kDotRowCols];
    for (std::size_t j = 0; j < kDotRowCols; ++j) right[j] = b(std::min(col + j, cols - 1));
    Vec acc[kDotRowCols] = {};
    for (std::size_t p = 0; p < depth; p += kLanes) {
      const Vec av = load(a + p);
      for (std::size_t j = 0; j < kDotRowCols; ++j) acc[j] += av * load(right[j] + p);
    }
    for (std::size_t j = 0; j < kDotRowCols; j += kDotCols) {
      store_sums(acc[j], acc[j + 1], acc[j + 2], acc[j + 3], out + col + j, false);
    }
  }
}

}  // namespace
}  // namespace FARTHING_ISA
}  // namespace farthing
