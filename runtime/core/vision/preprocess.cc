#include "preprocess.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "geometry_qwen.h"

namespace farthing {
namespace {

void make_views(Views& views, const Image& image, std::int64_t count, std::int64_t height, std::int64_t width) {
  Layout& layout = views.layout;
  layout.image_height = image.height, layout.image_width = image.width;
  layout.count = count, layout.height = height, layout.width = width;
  views.pixels.assign(static_cast<std::size_t>(count * height * width * 3), 0);
}

// Along one side: the part of `whole` pixels that a crop of `cut` from the middle shows, and where it stands in the crop. A side that is
// shorter than the crop stands in its middle, zeros around it.
struct Cut {
  std::int64_t from, length, to;
};

Cut cut_of(std::int64_t whole, std::int64_t cut) {
  if (whole >= cut) return {(whole - cut) / 2, cut, 0};
  return {0, whole, (cut - whole + 1) / 2};
}

Views clip(const Image& image, const Preprocess& how) {
  std::int64_t height = how.height, width = how.width;
  if (how.shortest > 0) {
    const bool upright = image.height >= image.width;
    const double longer = static_cast<double>(how.shortest * std::max(image.height, image.width)) /
                          static_cast<double>(std::min(image.height, image.width));
    height = upright ? static_cast<std::int64_t>(longer) : how.shortest;
    width = upright ? how.shortest : static_cast<std::int64_t>(longer);
  }
  const Cut down = cut_of(height, how.crop ? how.crop : height), over = cut_of(width, how.crop ? how.crop : width);
  Views views;
  make_views(views, image, 1, how.crop ? how.crop : height, how.crop ? how.crop : width);
  resize(image, height, width, how.filter, {down.from, over.from, down.length, over.length},
         views.pixels.data() + 3 * (down.to * views.layout.width + over.to), 3 * views.layout.width);
  return views;
}

Views anyres(const Image& image, const Preprocess& how) {
  const auto [canvas_height, canvas_width] = best_canvas(image.height, image.width, how.pinpoints);
  const double wider = static_cast<double>(canvas_width) / static_cast<double>(image.width);
  const double higher = static_cast<double>(canvas_height) / static_cast<double>(image.height);
  std::int64_t height = canvas_height, width = canvas_width;
  if (wider < higher) {
    height = std::min(static_cast<std::int64_t>(std::ceil(static_cast<double>(image.height) * wider)), canvas_height);
  } else {
    width = std::min(static_cast<std::int64_t>(std::ceil(static_cast<double>(image.width) * higher)), canvas_width);
  }
  Views views;
  views.layout.tile_rows = canvas_height / how.crop, views.layout.tile_columns = canvas_width / how.crop;
  make_views(views, image, 1 + views.layout.tile_rows * views.layout.tile_columns, how.crop, how.crop);
  resize(image, how.crop, how.crop, how.filter, {0, 0, how.crop, how.crop}, views.pixels.data(), 3 * how.crop);
  // Every tile is a window of the resized image, put where it is on the canvas: the canvas itself is never made.
  const std::int64_t above = (canvas_height - height) / 2, before = (canvas_width - width) / 2;
  for (std::int64_t row = 0; row < views.layout.tile_rows; ++row) {
    const std::int64_t top = std::max(row * how.crop, above), bottom = std::min((row + 1) * how.crop, above + height);
    for (std::int64_t column = 0; column < views.layout.tile_columns; ++column) {
      const std::int64_t left = std::max(column * how.crop, before),
                         right = std::min((column + 1) * how.crop, before + width);
      if (top >= bottom || left >= right) continue;
      const std::int64_t view = 1 + row * views.layout.tile_columns + column;
      std::uint8_t* to =
          views.pixels.data() + 3 * ((view * how.crop + top - row * how.crop) * how.crop + left - column * how.crop);
      resize(image, height, width, how.filter, {top - above, left - before, bottom - top, right - left}, to,
             3 * how.crop);
    }
  }
  return views;
}

Views qwen(const Image& image, const Preprocess& how) {
  const auto [height, width] = qwen_size(image.height, image.width, how);
  Views views;
  make_views(views, image, 1, height, width);
  resize(image, height, width, how.filter, {0, 0, height, width}, views.pixels.data(), 3 * width);
  return views;
}

}  // namespace

std::pair<std::int64_t, std::int64_t> best_canvas(std::int64_t height, std::int64_t width,
                                                  const std::vector<std::pair<std::int64_t, std::int64_t>>& pinpoints) {
  std::pair<std::int64_t, std::int64_t> best = pinpoints.at(0);
  std::int64_t most = 0, least = std::numeric_limits<std::int64_t>::max();
  for (const auto& [canvas_height, canvas_width] : pinpoints) {
    const double scale = std::min(static_cast<double>(canvas_width) / static_cast<double>(width),
                                  static_cast<double>(canvas_height) / static_cast<double>(height));
    const auto scaled_width = static_cast<std::int64_t>(static_cast<double>(width) * scale);
    const auto scaled_height = static_cast<std::int64_t>(static_cast<double>(height) * scale);
    const std::int64_t shown = std::min(scaled_width * scaled_height, width * height);
    const std::int64_t wasted = canvas_width * canvas_height - shown;
    if (shown > most || (shown == most && wasted < least)) {
      most = shown, least = wasted;
      best = {canvas_height, canvas_width};
    }
  }
  return best;
}

Views preprocess(const Image& image, const Preprocess& how) {
  if (std::max(image.height, image.width) > kMostStretch * std::min(image.height, image.width)) {
    refuse(Status::request, "shape of image", std::to_string(image.height) + " x " + std::to_string(image.width),
           "sides within 1 : " + std::to_string(kMostStretch), "cut the image into parts");
  }
  switch (how.kind) {
    case Preprocess::Kind::anyres:
      return anyres(image, how);
    case Preprocess::Kind::qwen2_vl:
      return qwen(image, how);
    default:
      return clip(image, how);
  }
}

}  // namespace farthing
