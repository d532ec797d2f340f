// Images of Python as the core takes them.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <vector>

#include "../core/generation.h"

namespace farthing {

// A list of (uint8 array [H,W,3], level or None). Pixels are not copied: `held` keeps them alive.
struct PyImages {
  std::vector<nanobind::ndarray<const std::uint8_t, nanobind::ndim<3>, nanobind::device::cpu>> held;
  std::vector<ImageInput> images;
};

// Throws Error(request).
PyImages images_of(nanobind::handle given);

nanobind::dict dict_of(const VisionStats& stats);

// Adds `preprocess`: what the vision graph of a bundle would be given.
void bind_images(nanobind::module_& module);

}  // namespace farthing
