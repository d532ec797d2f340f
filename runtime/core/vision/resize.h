// Resizing of uint8 RGB, equal to Image.resize of Pillow 13 bit by bit. (Older ones round tall images that become much shorter otherwise.)
#pragma once

#include <cstdint>

#include "image.h"

namespace farthing {

enum class Filter { bilinear, bicubic };

// Part of a resized image.
struct Window {
  std::int64_t top = 0, left = 0, height = 0, width = 0;
};

// Rows `window` of `image` as it would be with `height` x `width` pixels, written to `out`, rows `stride` bytes apart. Only what the
// window needs is computed, so a crop of an image that would be enormous costs no more than one that would not. `image` must have passed
// check_image, the window have pixels and lie inside. After libImaging/Resample.c of Pillow (Alex Clark, Fredrik Lundh and contributors, MIT-CMU).
void resize(const Image& image, std::int64_t height, std::int64_t width, Filter filter, const Window& window,
            std::uint8_t* out, std::int64_t stride);

}  // namespace farthing
