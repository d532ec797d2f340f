// Which rows an image becomes in the sequence of the language model, and where each stands. The twin of runtime/anyres.py.
#pragma once

#include <cstdint>
#include <vector>

#include "preprocess.h"

namespace farthing {

// Of an image that is not pruned.
struct Geometry {
  std::int64_t rows = 0;      // L
  std::int64_t newlines = 0;  // of them, line breaks: always kept
  // anyres; empty for one view. order [L]: row of the flattened features [T*N] that each row is, T*N = the line break. group [L]: its
  // view, -2 for a line break.
  std::vector<std::int64_t> order, group;
  // Rows and columns of the canvas of tiles that are image, not letterbox: from, to.
  std::int64_t top = 0, bottom = 0, left = 0, right = 0;
  // With M-RoPE: rows and columns of the grid; row j stands at (0, j / columns, j % columns).
  std::int64_t grid_rows = 0, grid_columns = 0;
};

// `grid`: tokens along a side of a view, after pooling those of the pooled view. `newline`: every row of the stitched tiles ends with a line
// break. The letterbox is left out as transformers' unpad_image does it.
Geometry geometry_of(const Layout& layout, const Preprocess& how, std::int64_t grid, bool newline);

// Where each row of tiles falls on the thumbnail's grid, which is stretched over the part of the canvas that is image: four cells, `index`
// [L,4], and their bilinear shares, `weight` [L,4]. Zeros for the thumbnail's own rows and line breaks.
struct Taps {
  std::vector<std::int64_t> index;
  std::vector<float> weight;
};
Taps taps_of(const Geometry& geometry, std::int64_t grid);

// [T, grid * grid]: 1 where a cell of the thumbnail's grid lies under a view's tile; the thumbnail's own row is zero.
std::vector<float> regions_of(const Layout& layout, std::int64_t grid);

}  // namespace farthing
