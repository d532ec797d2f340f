#include "geometry_qwen.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "preprocess.h"

namespace farthing {

std::pair<std::int64_t, std::int64_t> qwen_size(std::int64_t height, std::int64_t width, const Preprocess& how) {
  const std::int64_t unit = how.patch * how.merge;
  const auto factor = static_cast<double>(unit);
  const auto h = static_cast<double>(height), w = static_cast<double>(width);
  // Halves to even, as Python's round.
  auto tall = static_cast<std::int64_t>(std::nearbyint(h / factor)) * unit;
  auto wide = static_cast<std::int64_t>(std::nearbyint(w / factor)) * unit;
  if (tall * wide > how.max_pixels) {
    const double beta = std::sqrt(static_cast<double>(height * width) / static_cast<double>(how.max_pixels));
    tall = std::max(unit, static_cast<std::int64_t>(std::floor(h / beta / factor)) * unit);
    wide = std::max(unit, static_cast<std::int64_t>(std::floor(w / beta / factor)) * unit);
  } else if (tall * wide < how.min_pixels) {
    const double beta = std::sqrt(static_cast<double>(how.min_pixels) / static_cast<double>(height * width));
    tall = static_cast<std::int64_t>(std::ceil(h * beta / factor)) * unit;
    wide = static_cast<std::int64_t>(std::ceil(w * beta / factor)) * unit;
  }
  return {tall, wide};
}

}  // namespace farthing
