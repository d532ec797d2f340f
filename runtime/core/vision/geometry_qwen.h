// What only Qwen2-VL and Qwen2.5-VL need to know of an image: the size it is brought to.
//
// Their vision graph also takes inputs that the host makes (order of the windows, rotary angles of the patches, lengths of the
// sequences). They belong here once the exporter of that family defines them; until then VisionEncoder refuses the kind.
#pragma once

#include <cstdint>
#include <utility>

namespace farthing {

struct Preprocess;

// (height, width) of the view: multiples of patch * merge, about the shape of the image, min_pixels to max_pixels: transformers'
// smart_resize. Images more than 200 times as long as wide are refused before.
std::pair<std::int64_t, std::int64_t> qwen_size(std::int64_t height, std::int64_t width, const Preprocess& how);

}  // namespace farthing
