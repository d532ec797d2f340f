#include "drawing.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "../core/drawing/drawer.h"
#include "../core/drawing/png.h"
#include "../core/error.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace farthing {
namespace {

using Codes = nb::ndarray<const std::int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Texts = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Pictures = nb::ndarray<const std::uint8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

template <class Array>
Array array_of(nb::handle given, const char* what, const char* wanted) {
  Array array;
  if (!nb::try_cast(given, array, false)) {
    refuse(Status::request, what, "another kind of array", wanted, "numpy.ascontiguousarray with that dtype");
  }
  return array;
}

template <class T>
nb::object numpy_of(std::vector<T> values, std::vector<std::size_t> shape) {
  auto* kept = new std::vector<T>(std::move(values));
  const nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T>(kept->data(), shape.size(), shape.data(), owner));
}

template <class T>
T option(const nb::dict& options, const char* key, T fallback) {
  return options.contains(key) && !options[key].is_none() ? nb::cast<T>(options[key]) : fallback;
}

// Values of Python's draw() by their names there; those that are missing or None are the defaults.
drawing::DrawOptions options_of(const nb::dict& given) {
  drawing::DrawOptions options;
  options.seed = option<std::uint64_t>(given, "seed", 0);
  if (given.contains("guidance")) options.guidance_scale = nb::cast<double>(given["guidance"]);
  options.guidance_interval = option<std::int64_t>(given, "interval", -1);
  options.guidance_schedule = option<std::string>(given, "schedule", "constant");
  options.warp.temperature = option(given, "temperature", 1.0);
  options.warp.top_k = option<std::int64_t>(given, "top_k", 0);
  options.warp.top_p = option(given, "top_p", 1.0);
  if (given.contains("decode")) options.decode = nb::cast<std::string>(given["decode"]);
  options.draft_length = option<std::int64_t>(given, "draft_length", 0);
  return options;
}

nb::dict dict_of(const drawing::Drawn& made) {
  nb::dict result;
  result["finished"] = made.finished;
  result["passes"] = made.passes;
  result["decode"] = made.decode;
  result["image_passes"] = made.image_passes;
  result["judged"] = made.account.judged;
  result["accepted"] = made.account.accepted;
  result["chance"] = made.account.chance;
  result["above"] = made.account.above;
  result["below"] = made.account.below;
  result["model_seconds"] = made.model_seconds;
  result["choosing_seconds"] = made.choosing_seconds;
  result["total_seconds"] = made.total_seconds;
  return result;
}

nb::tuple draw(drawing::Drawer& self, const std::vector<std::int64_t>& classes, const nb::dict& given,
               nb::object progress, nb::object text_embeds, nb::object prefix) {
  drawing::DrawOptions options = options_of(given);
  drawing::Wish wish;
  wish.classes = classes;
  wish.count = static_cast<std::int64_t>(classes.size());
  Texts texts;
  Codes codes;
  if (!text_embeds.is_none()) {
    texts = array_of<Texts>(text_embeds, "text_embeds", "float32 [B,T,dc]");
    wish.texts = {texts.data(), texts.size()};
    wish.count = static_cast<std::int64_t>(texts.shape(0));
    wish.text_rows = static_cast<std::int64_t>(texts.shape(1));
  }
  if (!prefix.is_none()) {
    codes = array_of<Codes>(prefix, "prefix", "int64 [B,n]");
    options.prefix = {codes.data(), codes.size()};
  }
  drawing::Drawer::Progress heard = [&progress](std::int64_t done, std::int64_t all) {
    const nb::gil_scoped_acquire held;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (progress.is_none()) return true;
    const nb::object answer = progress(done, all);
    return answer.is_none() || nb::cast<bool>(answer);
  };
  drawing::Drawn made;
  {
    const nb::gil_scoped_release released;
    made = self.draw(wish, options, heard);
  }
  const std::size_t images = static_cast<std::size_t>(wish.count), each = made.codes.size() / images;
  const nb::dict figures = dict_of(made);
  return nb::make_tuple(numpy_of(std::move(made.codes), {images, each}), figures);
}

nb::object decode(drawing::Drawer& self, nb::object given) {
  const Codes codes = array_of<Codes>(given, "codes", "int64 [B,g*g]");
  const auto side = static_cast<std::size_t>(self.bundle().image.size);
  const std::size_t images = codes.shape(0);
  if (codes.shape(1) != static_cast<std::size_t>(self.bundle().image.tokens())) {
    refuse(Status::request, "codes of an image", std::to_string(codes.shape(1)),
           std::to_string(self.bundle().image.tokens()), "check them");
  }
  std::vector<std::uint8_t> rgb(3 * side * side * images);
  {
    const nb::gil_scoped_release released;
    self.decode({codes.data(), codes.size()}, rgb);
  }
  return numpy_of(std::move(rgb), {images, side, side, 3});
}

nb::bytes png(nb::object given, std::int64_t columns) {
  const Pictures images = array_of<Pictures>(given, "images", "uint8 [B,H,W,3]");
  const auto count = static_cast<std::int64_t>(images.shape(0)), height = static_cast<std::int64_t>(images.shape(1));
  const auto width = static_cast<std::int64_t>(images.shape(2));
  std::vector<std::uint8_t> bytes;
  {
    const nb::gil_scoped_release released;
    const auto sheet = drawing::contact_sheet({images.data(), images.size()}, count, height, width, columns);
    bytes = drawing::png_of(sheet, (count + columns - 1) / columns * height, columns * width);
  }
  return nb::bytes(bytes.data(), bytes.size());
}

}  // namespace

void bind_drawing(nb::module_& module) {
  module.def("png", &png, "images"_a, "columns"_a = 1,
             "A PNG file, as bytes, of images uint8 [B,H,W,3], `columns` beside each other.");
  nb::class_<drawing::Drawer>(module, "Drawer", "The loops of farthing.runtime.drawing in C++; checks live there.")
      .def(
          "__init__",
          [](drawing::Drawer* self, const std::string& path, int threads, const std::string& onnxruntime,
             const std::string& ops_library, bool hashes) {
            OrtOptions options;
            options.threads = threads;
            options.onnxruntime = onnxruntime;
            options.ops_library = ops_library;
            options.hashes = hashes;
            const nb::gil_scoped_release released;
            new (self) drawing::Drawer(path, options);
          },
          "bundle_path"_a, "threads"_a = 0, "onnxruntime"_a = "", "ops_library"_a = "", "hashes"_a = true)
      .def("draw", &draw, "classes"_a, "options"_a = nb::dict(), "progress"_a = nb::none(),
           "text_embeds"_a = nb::none(), "prefix"_a = nb::none(),
           "(codes int64 [B,g*g], figures); `progress(done, all)` ends the drawing by returning False.")
      .def("decode", &decode, "codes"_a, "Pixels uint8 [B,H,W,3] of codes int64 [B,g*g].")
      .def_prop_ro("pixel_seconds", [](const drawing::Drawer& self) { return self.pixel_seconds(); })
      .def_prop_ro("together", [](const drawing::Drawer& self) { return self.most_together(); })
      .def("cancel", [](drawing::Drawer& self) { self.cancel(); });
}

}  // namespace farthing
