// Pixels as they come from a caller, and the check that they can be used.
#pragma once

#include <cstdint>
#include <string>

#include "../error.h"

namespace farthing {

// Pixels of an image, at most: what a decoder of files refuses as a decompression bomb is refused here, too.
constexpr std::int64_t kMostPixels = std::int64_t{1} << 28;
// Along a side: the weights of a resize are about four for each.
constexpr std::int64_t kMostSide = std::int64_t{1} << 22;

// uint8 RGB, rows from the top; not owned. `stride`: bytes from a row to the next.
struct Image {
  const std::uint8_t* rgb = nullptr;
  std::int64_t height = 0, width = 0, stride = 0;

  const std::uint8_t* row(std::int64_t y) const { return rgb + y * stride; }
};

// Throws Error(request). `what`: which image, for the message.
inline void check_image(const Image& image, const std::string& what) {
  const std::string size = std::to_string(image.height) + " x " + std::to_string(image.width) + " pixels";
  if (image.height < 1 || image.width < 1) {
    refuse(Status::request, what, size, "1 x 1 or more (height x width)", "give an image that has pixels");
  }
  if (image.height > kMostSide || image.width > kMostSide || image.height * image.width > kMostPixels) {
    refuse(Status::request, what, size,
           "at most " + std::to_string(kMostPixels) + " pixels and " + std::to_string(kMostSide) + " along a side",
           "make it smaller first");
  }
  if (image.rgb == nullptr) {
    refuse(Status::request, "pixels of " + what, "NULL", "uint8 red, green, blue", "pass a pointer");
  }
  if (image.stride < 3 * image.width) {
    refuse(Status::request, "stride of " + what, std::to_string(image.stride) + " bytes",
           "at least " + std::to_string(3 * image.width) + ", three bytes a pixel",
           "convert grey images to RGB, and count the stride in bytes");
  }
}

}  // namespace farthing
