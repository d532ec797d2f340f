#include "resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace farthing {
namespace {

constexpr int kBits = 22;  // fraction bits of a weight: 32 - 8 of a pixel - 2 for sums outside of 0 to 255

double weight(Filter filter, double x) {
  x = std::abs(x);
  if (filter == Filter::bilinear) return x < 1.0 ? 1.0 - x : 0.0;
  constexpr double a = -0.5;
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

// For pixels first .. first + count - 1 of an axis: which pixels of the source each is made of, and with which weights.
struct Weights {
  std::vector<std::int64_t> begin, length;
  std::vector<std::int32_t> values;  // `most` a pixel
  std::int64_t most = 0;

  const std::int32_t* of(std::int64_t i) const { return values.data() + i * most; }
};

Weights weights_of(std::int64_t source, std::int64_t target, Filter filter, std::int64_t first, std::int64_t count) {
  // The order of the operations is Pillow's: their rounding decides about the last bit of a weight.
  const double scale = static_cast<double>(source) / static_cast<double>(target);
  const double stretch = std::max(scale, 1.0);  // a shrinking filter is as wide as what falls into one pixel
  const double support = (filter == Filter::bilinear ? 1.0 : 2.0) * stretch;
  const double step = 1.0 / stretch;
  Weights made;
  made.most = static_cast<std::int64_t>(std::ceil(support)) * 2 + 1;
  made.begin.resize(static_cast<std::size_t>(count));
  made.length.resize(static_cast<std::size_t>(count));
  made.values.resize(static_cast<std::size_t>(count * made.most));
  std::vector<double> exact(static_cast<std::size_t>(made.most));
  for (std::int64_t i = 0; i < count; ++i) {
    const double centre = (static_cast<double>(first + i) + 0.5) * scale;
    const auto low = std::max<std::int64_t>(static_cast<std::int64_t>(centre - support + 0.5), 0);
    const auto high = std::min(static_cast<std::int64_t>(centre + support + 0.5), source);
    double sum = 0;
    for (std::int64_t k = 0; k < high - low; ++k) {
      const double w = weight(filter, (static_cast<double>(k + low) - centre + 0.5) * step);
      exact[static_cast<std::size_t>(k)] = w;
      sum += w;
    }
    for (std::int64_t k = 0; k < high - low; ++k) {
      double w = exact[static_cast<std::size_t>(k)];
      if (sum != 0.0) w /= sum;
      made.values[static_cast<std::size_t>(i * made.most + k)] =
          static_cast<std::int32_t>((w < 0 ? -0.5 : 0.5) + w * (1 << kBits));
    }
    made.begin[static_cast<std::size_t>(i)] = low;
    made.length[static_cast<std::size_t>(i)] = high - low;
  }
  return made;
}

std::uint8_t pixel(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kBits, 0, 255)); }

constexpr std::int32_t kHalf = 1 << (kBits - 1);

void across(const std::uint8_t* in, const Weights& columns, std::int64_t width, std::uint8_t* out) {
  for (std::int64_t x = 0; x < width; ++x) {
    const std::uint8_t* at = in + 3 * columns.begin[static_cast<std::size_t>(x)];
    const std::int32_t* w = columns.of(x);
    std::int32_t red = kHalf, green = kHalf, blue = kHalf;
    for (std::int64_t k = 0; k < columns.length[static_cast<std::size_t>(x)]; ++k, at += 3) {
      red += at[0] * w[k];
      green += at[1] * w[k];
      blue += at[2] * w[k];
    }
    out[3 * x] = pixel(red);
    out[3 * x + 1] = pixel(green);
    out[3 * x + 2] = pixel(blue);
  }
}

// A row from source rows, row(k) being the k-th, and their weights.
template <class Row>
void down(const Row& row, const Weights& rows, std::int64_t y, std::vector<std::int32_t>& sums, std::uint8_t* out) {
  std::fill(sums.begin(), sums.end(), kHalf);
  const std::int64_t begin = rows.begin[static_cast<std::size_t>(y)],
                     end = begin + rows.length[static_cast<std::size_t>(y)];
  for (std::int64_t k = begin; k < end; ++k) {
    const std::uint8_t* in = row(k);
    const std::int32_t w = rows.of(y)[k - begin];
    for (std::size_t x = 0; x < sums.size(); ++x) sums[x] += in[x] * w;
  }
  std::transform(sums.begin(), sums.end(), out, pixel);
}

// Down first, then across: of the source columns those that the window needs.
void down_across(const Image& image, const Weights& rows, const Weights& columns, const Window& window, bool wider,
                 std::uint8_t* out, std::int64_t stride) {
  const std::int64_t low = wider ? columns.begin.front() : window.left;
  const std::int64_t high = wider ? columns.begin.back() + columns.length.back() : window.left + window.width;
  Weights shifted = columns;
  for (std::int64_t& begin : shifted.begin) begin -= low;
  std::vector<std::int32_t> sums(static_cast<std::size_t>(3 * (high - low)));
  std::vector<std::uint8_t> line(sums.size());
  for (std::int64_t y = 0; y < window.height; ++y) {
    std::uint8_t* to = out + y * stride;
    down([&](std::int64_t k) { return image.row(k) + 3 * low; }, rows, y, sums, wider ? line.data() : to);
    if (wider) across(line.data(), shifted, window.width, to);
  }
}

}  // namespace

void resize(const Image& image, std::int64_t height, std::int64_t width, Filter filter, const Window& window,
            std::uint8_t* out, std::int64_t stride) {
  const auto row_bytes = static_cast<std::size_t>(3 * window.width);
  // A pass over an axis that keeps its size is left out. Between the passes stand 8 bits, so their order shows: across first, but down first
  // where that drops much more (Pillow 13 and later).
  const bool wider = width != image.width, higher = height != image.height;
  const bool down_first = image.height - height > std::max<std::int64_t>(2 * (image.width - width), 0);
  const Weights columns = wider ? weights_of(image.width, width, filter, window.left, window.width) : Weights();
  if (down_first) {
    const Weights rows = weights_of(image.height, height, filter, window.top, window.height);
    return down_across(image, rows, columns, window, wider, out, stride);
  }
  const auto narrow = [&](std::int64_t y, std::uint8_t* to) {
    if (wider) {
      across(image.row(y), columns, window.width, to);
    } else {
      std::memcpy(to, image.row(y) + 3 * window.left, row_bytes);
    }
  };
  if (!higher) {
    for (std::int64_t y = 0; y < window.height; ++y) narrow(window.top + y, out + y * stride);
    return;
  }
  const Weights rows = weights_of(image.height, height, filter, window.top, window.height);
  // Rows of the source are made narrow when they are first needed and forgotten behind the last that needs them: a ring.
  const std::int64_t held = std::min(rows.most, image.height);
  std::vector<std::uint8_t> ring(static_cast<std::size_t>(held) * row_bytes);
  const auto slot = [&](std::int64_t y) { return ring.data() + static_cast<std::size_t>(y % held) * row_bytes; };
  std::vector<std::int32_t> sums(row_bytes);
  std::int64_t made = 0;
  for (std::int64_t y = 0; y < window.height; ++y) {
    const std::int64_t begin = rows.begin[static_cast<std::size_t>(y)];
    const std::int64_t end = begin + rows.length[static_cast<std::size_t>(y)];
    for (made = std::max(made, begin); made < end; ++made) narrow(made, slot(made));
    down(slot, rows, y, sums, out + y * stride);
  }
}

}  // namespace farthing
