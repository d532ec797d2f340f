#include "geometry.h"

#include <algorithm>

namespace farthing {
namespace {

// Python's int(round(x, 7)) for x >= 0: what is nearer to the next whole number than half of 1e-7 is that number.
std::int64_t nearly_floor(double x) {
  const auto below = static_cast<std::int64_t>(x);
  return static_cast<double>(below + 1) - x < 5e-8 ? below + 1 : below;
}

void cut_letterbox(const Layout& layout, std::int64_t height, std::int64_t width, Geometry& made) {
  made.bottom = height, made.right = width;
  const auto ih = static_cast<double>(layout.image_height), iw = static_cast<double>(layout.image_width);
  const auto h = static_cast<double>(height), w = static_cast<double>(width);
  if (iw / ih > w / h) {
    made.top = (height - nearly_floor(ih * (w / iw))) / 2;
    made.bottom = height - made.top;
  } else {
    made.left = (width - nearly_floor(iw * (h / ih))) / 2;
    made.right = width - made.left;
  }
}

Geometry tiled(const Layout& layout, std::int64_t grid, bool newline) {
  Geometry made;
  const std::int64_t each = grid * grid, line_break = layout.count * each;
  const auto add = [&](std::int64_t row, std::int64_t view) {
    made.order.push_back(row);
    made.group.push_back(view);
  };
  for (std::int64_t i = 0; i < each; ++i) add(i, 0);
  cut_letterbox(layout, layout.tile_rows * grid, layout.tile_columns * grid, made);
  for (std::int64_t y = made.top; y < made.bottom; ++y) {
    for (std::int64_t x = made.left; x < made.right; ++x) {
      const std::int64_t view = 1 + y / grid * layout.tile_columns + x / grid;
      add(view * each + y % grid * grid + x % grid, view);
    }
    if (!newline) continue;
    add(line_break, -2);
    ++made.newlines;
  }
  made.rows = static_cast<std::int64_t>(made.order.size());
  return made;
}

// Of point i of `target` on a line of `source`: the neighbours below and above, and the share of the one above.
struct Between {
  std::int64_t low, high;
  double share;
};

Between between(std::int64_t i, std::int64_t source, std::int64_t target) {
  const double step = static_cast<double>(source) / static_cast<double>(target);
  const double at = std::max((static_cast<double>(i) + 0.5) * step - 0.5, 0.0);
  const std::int64_t low = std::min(static_cast<std::int64_t>(at), source - 1);
  return {low, std::min(low + 1, source - 1), at - static_cast<double>(low)};
}

}  // namespace

Geometry geometry_of(const Layout& layout, const Preprocess& how, std::int64_t grid, bool newline) {
  if (how.kind == Preprocess::Kind::anyres) return tiled(layout, grid, newline);
  Geometry made;
  made.grid_rows = made.grid_columns = grid;
  if (how.kind == Preprocess::Kind::qwen2_vl) {
    const std::int64_t unit = how.patch * how.merge;
    made.grid_rows = layout.height / unit, made.grid_columns = layout.width / unit;
  }
  made.rows = made.grid_rows * made.grid_columns;
  return made;
}

Taps taps_of(const Geometry& geometry, std::int64_t grid) {
  Taps taps;
  taps.index.resize(static_cast<std::size_t>(4 * geometry.rows));
  taps.weight.resize(static_cast<std::size_t>(4 * geometry.rows));
  auto row = static_cast<std::size_t>(grid * grid);
  for (std::int64_t y = geometry.top; y < geometry.bottom; ++y) {
    const Between down = between(y - geometry.top, grid, geometry.bottom - geometry.top);
    for (std::int64_t x = geometry.left; x < geometry.right; ++x, ++row) {
      const Between over = between(x - geometry.left, grid, geometry.right - geometry.left);
      std::int64_t* index = taps.index.data() + 4 * row;
      float* weight = taps.weight.data() + 4 * row;
      index[0] = down.low * grid + over.low, index[1] = down.low * grid + over.high;
      index[2] = down.high * grid + over.low, index[3] = down.high * grid + over.high;
      weight[0] = static_cast<float>((1 - down.share) * (1 - over.share));
      weight[1] = static_cast<float>((1 - down.share) * over.share);
      weight[2] = static_cast<float>(down.share * (1 - over.share));
      weight[3] = static_cast<float>(down.share * over.share);
    }
    if (geometry.newlines > 0) ++row;
  }
  return taps;
}

std::vector<float> regions_of(const Layout& layout, std::int64_t grid) {
  std::vector<float> regions(static_cast<std::size_t>(layout.count * grid * grid));
  // A grid that the tiles do not divide leaves its remainder to the last ones.
  const std::int64_t high = std::max<std::int64_t>(grid / layout.tile_rows, 1);
  const std::int64_t wide = std::max<std::int64_t>(grid / layout.tile_columns, 1);
  for (std::int64_t y = 0; y < grid; ++y) {
    for (std::int64_t x = 0; x < grid; ++x) {
      const std::int64_t view = 1 + std::min(y / high, layout.tile_rows - 1) * layout.tile_columns +
                                std::min(x / wide, layout.tile_columns - 1);
      regions[static_cast<std::size_t>((view * grid + y) * grid + x)] = 1;
    }
  }
  return regions;
}

}  // namespace farthing
