// From codes to pixels: the decoder of the image tokenizer.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "graph.h"
#include "image_codes.h"

namespace farthing::drawing {

class Pixels {
 public:
  Pixels(const DrawingBundle& bundle, const OrtOptions& options);
  // uint8 [B, size, size, 3] of codes int64 [B, grid^2]; B >= 1. Throws Error(request).
  void decode(std::span<const std::int64_t> codes, std::span<std::uint8_t> rgb);
  // Throws Error(request) for a number that is no code.
  void check(std::span<const std::int64_t> codes) const;
  double seconds() const { return graph_.seconds(); }

 private:
  ImageCodes image_;
  Graph graph_;
  std::vector<std::int64_t> codes_;
  std::vector<float> pixels_;
};

}  // namespace farthing::drawing
