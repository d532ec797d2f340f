// What only Qwen2-VL and Qwen2.5-VL need to know of an image: the size it is brought to. Windows and rotary angles of the patches follow from
// it inside their vision graph. The twin of runtime/visual/native.py.
#pragma once

#include <cstdint>
#include <utility>

namespace farthing {

struct Preprocess;

// (height, width) of the view: multiples of patch * merge, about the shape of the image, min_pixels to max_pixels: transformers'
// smart_resize. Images more than 200 times as long as wide are refused before.
std::pair<std::int64_t, std::int64_t> qwen_size(std::int64_t height, std::int64_t width, const Preprocess& how);

}  // namespace farthing
