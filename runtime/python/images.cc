#include "images.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "../core/error.h"
#include "../core/vision/geometry.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace farthing {
namespace {

using Pixels = nb::ndarray<const std::uint8_t, nb::ndim<3>, nb::device::cpu>;

Image image_of(nb::handle given, Pixels& held, const std::string& what) {
  const std::string fix = "numpy.ascontiguousarray(array, numpy.uint8), grey and transparent images converted to RGB";
  if (!nb::try_cast(given, held, false)) {
    refuse(Status::request, what, "no array of three dimensions of uint8", "a uint8 array [height, width, 3]", fix);
  }
  if (held.shape(0) == 0 || held.shape(1) == 0) {  // of strides numpy says nothing then; check_image refuses it
    return {nullptr, static_cast<std::int64_t>(held.shape(0)), static_cast<std::int64_t>(held.shape(1)), 0};
  }
  if (held.shape(2) != 3 || held.stride(2) != 1 || (held.shape(1) > 1 && held.stride(1) != 3)) {
    refuse(Status::request, what,
           "of " + std::to_string(held.shape(2)) + " channels with strides " + std::to_string(held.stride(0)) + ", " +
               std::to_string(held.stride(1)) + ", " + std::to_string(held.stride(2)),
           "3 channels, red, green and blue side by side", fix);
  }
  const auto height = static_cast<std::int64_t>(held.shape(0)), width = static_cast<std::int64_t>(held.shape(1));
  // numpy is free to say anything of the stride of a single row.
  return {held.data(), height, width, height > 1 ? static_cast<std::int64_t>(held.stride(0)) : 3 * width};
}

template <class T>
nb::object array_of(std::vector<T> values, std::vector<std::size_t> shape) {
  auto* kept = new std::vector<T>(std::move(values));
  const nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T>(kept->data(), shape.size(), shape.data(), owner));
}

nb::tuple preprocess_image(nb::handle given, const std::string& how, std::int64_t grid) {
  if (grid < 1 || grid > 4096) refuse(Status::request, "grid", std::to_string(grid), "1 to 4096", "correct it");
  Pixels held;
  const Image image = image_of(given, held, "image");
  check_image(image, "image");
  const Preprocess options = preprocess_of(how);
  Views views;
  Geometry geometry;
  Taps taps;
  std::vector<float> regions;
  const bool several = options.kind == Preprocess::Kind::anyres;
  {
    const nb::gil_scoped_release released;
    views = preprocess(image, options);
    geometry = geometry_of(views.layout, options, grid, several);
    if (several) taps = taps_of(geometry, grid), regions = regions_of(views.layout, grid);
  }
  const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  const Layout& layout = views.layout;
  nb::dict where;
  where["rows"] = geometry.rows;
  where["newlines"] = geometry.newlines;
  where["grid"] = nb::make_tuple(geometry.grid_rows, geometry.grid_columns);
  where["tiles"] = nb::make_tuple(layout.tile_rows, layout.tile_columns);
  if (several) {
    const std::size_t rows = size(geometry.rows);
    where["order"] = array_of(std::move(geometry.order), {rows});
    where["group"] = array_of(std::move(geometry.group), {1, rows});
    where["tap_index"] = array_of(std::move(taps.index), {rows, 4});
    where["tap_weight"] = array_of(std::move(taps.weight), {rows, 4});
    where["regions"] = array_of(std::move(regions), {size(layout.count), size(grid * grid)});
  }
  return nb::make_tuple(
      array_of(std::move(views.pixels), {size(layout.count), size(layout.height), size(layout.width), 3}), where);
}

nb::object resize_image(nb::handle given, std::int64_t height, std::int64_t width, const std::string& resample) {
  Pixels held;
  const Image image = image_of(given, held, "image");
  check_image(image, "image");
  if (resample != "bicubic" && resample != "bilinear") {
    refuse(Status::request, "resample", "'" + resample + "'", "bicubic or bilinear", "choose one of them");
  }
  if (height < 1 || width < 1 || height > kMostSide || width > kMostSide || height * width > kMostPixels) {
    refuse(Status::request, "size to resize to", std::to_string(height) + " x " + std::to_string(width),
           "1 x 1 to " + std::to_string(kMostPixels) + " pixels", "choose another size");
  }
  std::vector<std::uint8_t> made(static_cast<std::size_t>(3 * height * width));
  {
    const nb::gil_scoped_release released;
    resize(image, height, width, resample == "bicubic" ? Filter::bicubic : Filter::bilinear, {0, 0, height, width},
           made.data(), 3 * width);
  }
  return array_of(std::move(made), {static_cast<std::size_t>(height), static_cast<std::size_t>(width), 3});
}

}  // namespace

PyImages images_of(nb::handle given) {
  PyImages all;
  if (given.is_none()) return all;
  for (const nb::handle each : given) {
    const std::string what = "image " + std::to_string(all.images.size());
    if (!nb::isinstance<nb::sequence>(each) || nb::len(each) != 2) {
      refuse(Status::request, what, "no pair", "(uint8 array [height, width, 3], level or None)", "pass such pairs");
    }
    const Image image = image_of(each[0], all.held.emplace_back(), what);
    std::string level;
    if (!each[1].is_none() && !nb::try_cast(each[1], level, false)) {
      refuse(Status::request, "level of " + what, "no text", "the name of a level, or None", "pass a str");
    }
    all.images.push_back({image, level});
  }
  return all;
}

nb::dict dict_of(const VisionStats& stats) {
  nb::dict made;
  made["encoded"] = stats.encoded;
  made["cache_hits"] = stats.cache_hits;
  made["rows"] = stats.rows_after;
  made["rows_unreduced"] = stats.rows_before;
  made["seconds"] = stats.seconds;
  return made;
}

void bind_images(nb::module_& module) {
  module.def(
      "preprocess", &preprocess_image, "image"_a, "preprocess"_a, "grid"_a,
      "(views uint8 [T,H,W,3], geometry) of a uint8 array [H,W,3]; `preprocess` is that entry of a manifest, as JSON.");
  module.def("resize", &resize_image, "image"_a, "height"_a, "width"_a, "resample"_a = "bicubic",
             "uint8 [height,width,3], equal to Pillow's Image.resize.");
}

}  // namespace farthing
