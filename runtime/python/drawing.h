// The drawer of the core for Python.
#pragma once

#include <nanobind/nanobind.h>

namespace farthing {

// Adds the class Drawer and the function png.
void bind_drawing(nanobind::module_& module);

}  // namespace farthing
