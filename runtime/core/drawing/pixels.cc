#include "pixels.h"

#include <algorithm>
#include <cmath>

#include "error.h"
#include "tensors.h"

namespace farthing::drawing {

Pixels::Pixels(const DrawingBundle& bundle, const OrtOptions& options)
    : image_(bundle.image), graph_(bundle.graphs.at(tensors::kVqDecode), options, Work::seldom) {
  graph_.need_input(tensors::kCodes, type_of<std::int64_t>(), {-1, image_.tokens()});
  graph_.need_output(tensors::kPixels, type_of<float>(), {-1, 3, image_.size, image_.size});
  graph_.no_other_inputs();
}

void Pixels::check(std::span<const std::int64_t> codes) const {
  const auto bad = std::find_if(codes.begin(), codes.end(),
                                [&](std::int64_t code) { return code < 0 || code >= image_.all_codes(); });
  if (bad == codes.end()) return;
  refuse(Status::request, "codes", std::to_string(*bad), "0 to " + std::to_string(image_.all_codes() - 1),
         "check them");
}

void Pixels::decode(std::span<const std::int64_t> codes, std::span<std::uint8_t> rgb) {
  const auto tokens = static_cast<std::size_t>(image_.tokens()), side = static_cast<std::size_t>(image_.size);
  const std::size_t plane = side * side;
  if (codes.empty() || codes.size() % tokens != 0) {
    refuse(Status::request, "codes", std::to_string(codes.size()), "a multiple of " + std::to_string(tokens),
           "give whole images");
  }
  check(codes);
  const std::size_t images = codes.size() / tokens;
  if (rgb.size() / (3 * plane) < images) {
    refuse(Status::request, "room for pixels", std::to_string(rgb.size()) + " bytes",
           std::to_string(3 * plane * images), "pass a larger buffer");
  }
  codes_.resize(tokens);
  pixels_.resize(3 * plane);
  const auto low = static_cast<float>(image_.low), high = static_cast<float>(image_.high);
  const auto scale = static_cast<float>(255 / (image_.high - image_.low));
  for (std::size_t i = 0; i < images; ++i) {  // one by one: the widest layer of one image is memory enough
    const auto own = codes.subspan(i * tokens, tokens);
    std::copy(own.begin(), own.end(), codes_.begin());
    graph_.run({1, 0, 0, 0}, [&](Binder& binder) {
      binder.in(tensors::kCodes, codes_.data(), {1, image_.tokens()});
      binder.out(tensors::kPixels, pixels_.data(), {1, 3, image_.size, image_.size});
    });
    std::uint8_t* to = rgb.data() + 3 * plane * i;
    for (std::size_t channel = 0; channel < 3; ++channel) {
      const float* from = pixels_.data() + channel * plane;
      for (std::size_t at = 0; at < plane; ++at) {
        const float inside = std::min(std::max(low, from[at]), high);  // low for NaN
        to[3 * at + channel] = static_cast<std::uint8_t>(std::nearbyint((inside - low) * scale));
      }
    }
  }
}

}  // namespace farthing::drawing
