// From pixels of any size to the views that a vision tower takes, as transformers' image processors make them with Pillow.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "image.h"
#include "resize.h"

namespace farthing {

// Entry `vision.preprocess` of the manifest. Mean and standard deviation are not here: the vision graph normalises.
struct Preprocess {
  // clip: one view, resized and cut from the middle (CLIPImageProcessor). anyres: the whole image small, then tiles of it large
  // (LlavaNextImageProcessor). qwen2_vl: one view of a size that suits the image (Qwen2VLImageProcessor).
  enum class Kind { clip, anyres, qwen2_vl } kind = Kind::clip;
  Filter filter = Filter::bicubic;
  std::int64_t shortest = 0;  // clip: the shorter side after resizing; 0 = `height` x `width` whatever the shape was
  std::int64_t height = 0, width = 0;
  std::int64_t crop = 0;                                         // side of every view; clip: 0 = no crop
  std::vector<std::pair<std::int64_t, std::int64_t>> pinpoints;  // anyres: canvases (height, width), multiples of crop
  std::int64_t patch = 14, merge = 2, window = 112, min_pixels = 0, max_pixels = 0;  // qwen2_vl
};

// Entry `vision.preprocess` of a manifest by itself, JSON. Throws Error(bundle).
Preprocess preprocess_of(const std::string& json);

// What an image was, and what it became.
struct Layout {
  std::int64_t image_height = 0, image_width = 0;
  std::int64_t count = 0, height = 0, width = 0;  // views and the size of each
  std::int64_t tile_rows = 0, tile_columns = 0;   // anyres: size of the canvas in tiles; views 1, 2, ... row by row
};

struct Views {
  std::vector<std::uint8_t> pixels;  // [count, height, width, 3]
  Layout layout;
};

// Longest side over shortest, at most: beyond it there is nothing to see, and the portable engine would fill its memory.
constexpr std::int64_t kMostStretch = 200;

// `image` must have passed check_image. Throws Error(request) for one of an extreme shape.
Views preprocess(const Image& image, const Preprocess& how);

// The canvas that shows most of an image of that size, and among those the smallest: transformers' select_best_resolution.
std::pair<std::int64_t, std::int64_t> best_canvas(std::int64_t height, std::int64_t width,
                                                  const std::vector<std::pair<std::int64_t, std::int64_t>>& pinpoints);

}  // namespace farthing
