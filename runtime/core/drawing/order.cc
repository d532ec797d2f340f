#include "order.h"

#include <algorithm>

namespace farthing::drawing {

Order::Order(const ImageCodes& image) : image_(image) {
  const std::int64_t g = image.grid;
  std::int64_t first = 0, row = 0, known = 0;
  const auto turn = [&](std::int64_t draws, std::int64_t rows, std::int64_t codes) {
    known += codes;
    turns_.push_back({first, draws, row, rows, known});
    first += draws, row += rows;
    most_draws_ = std::max(most_draws_, draws);
    most_rows_ = std::max(most_rows_, rows);
  };
  if (image.sequence == Sequence::diagonal) {
    for (std::int64_t c = 0; c < 2 * g - 1; ++c) {
      const std::int64_t top = std::max<std::int64_t>(0, c - g + 1), bottom = std::min(c, g - 1);
      for (std::int64_t h = top; h <= bottom; ++h) {
        const std::int64_t place = h * g + (c - h);
        numbers_.push_back(static_cast<std::int64_t>(numbers_.size()));
        places_.push_back(place);
        positions_.push_back(place);
      }
      const std::int64_t length = bottom - top + 1;
      turn(length, length, length);
    }
    return;
  }
  const std::int64_t s = image.window, side = g / s;
  for (std::int64_t i = 0; i < side * side; ++i) {
    const std::int64_t corner = (i / side) * s * g + (i % side) * s;
    for (std::int64_t k = 0; k < image.per_step; ++k) {
      numbers_.push_back(i * s * s);  // a window has the scale of its first code, sub-ids that of their code
      places_.push_back(s > 1 ? corner + (k / s) * g + k % s : corner);
    }
    positions_.push_back(i);
    turn(image.per_step, 1, s * s);
  }
}

void Order::place(std::span<const std::int64_t> drawn, std::span<std::int64_t> codes) const {
  std::fill(codes.begin(), codes.end(), 0);
  for (std::size_t n = 0; n < drawn.size(); ++n) {
    // Sub-ids are joined, the first in the highest bits; other places are met once.
    std::int64_t& code = codes[static_cast<std::size_t>(places_[n])];
    code = (code << image_.sub_bits) + drawn[n];
  }
}

void Order::split(std::span<const std::int64_t> codes, std::span<std::int64_t> drawn) const {
  const std::int64_t m = image_.per_step, bits = image_.sub_bits;
  for (std::size_t n = 0; n < drawn.size(); ++n) {
    const auto i = static_cast<std::int64_t>(n);
    const std::int64_t code = codes[static_cast<std::size_t>(i / m)];
    drawn[n] = bits ? (code >> (bits * (m - 1 - i % m))) & ((std::int64_t{1} << bits) - 1) : code;
  }
}

void mix_diagonal(std::span<const float> right, std::span<const float> below, std::int64_t batch, std::int64_t rows,
                  std::int64_t codes, std::int64_t turn, std::int64_t grid, std::span<float> mixed) {
  const auto v = static_cast<std::size_t>(codes), m = static_cast<std::size_t>(rows);
  float* out = mixed.data();
  const auto mean = [&](const float* a, const float* b) {
    for (std::size_t i = 0; i < v; ++i) out[i] = (a[i] + b[i]) * 0.5f;
    out += v;
  };
  for (std::size_t b = 0; b < static_cast<std::size_t>(batch); ++b) {
    const float *r = right.data() + b * m * v, *d = below.data() + b * m * v;
    if (turn == 0) {  // both heads at the condition
      mean(r, d);
      continue;
    }
    const bool growing = turn < grid;
    if (growing) out = std::copy_n(r, v, out);
    for (std::size_t k = 0; k + 1 < m; ++k) mean(d + k * v, r + (k + 1) * v);
    if (growing) out = std::copy_n(d + (m - 1) * v, v, out);
  }
}

}  // namespace farthing::drawing
