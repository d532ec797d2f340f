// farthing.runtime._core: Engine for Python. Checks and conveniences live in farthing/runtime/api.py.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "../core/engine.h"
#include "../core/error.h"
#include "../core/tensorrt_backend.h"
#include "drawing.h"
#include "images.h"
#include "speculation.h"

namespace nb = nanobind;
using namespace nb::literals;
using farthing::Engine;

namespace {

// The class of farthing.errors that stands for a status.
const char* class_of(farthing::Status status) {
  switch (status) {
    case farthing::Status::request:
      return "RequestError";
    case farthing::Status::bundle:
      return "BundleError";
    case farthing::Status::environment:
      return "MissingDependencyError";
    default:
      return "FarthingError";
  }
}

template <class T>
T option(const nb::dict& options, const char* key, T fallback) {
  return options.contains(key) ? nb::cast<T>(options[key]) : fallback;
}

farthing::GenerateOptions options_of(const nb::dict& given) {
  farthing::GenerateOptions o;
  o.max_new_tokens = option(given, "max_new_tokens", o.max_new_tokens);
  o.sampler.temperature = option(given, "temperature", o.sampler.temperature);
  o.sampler.top_k = option(given, "top_k", o.sampler.top_k);
  o.sampler.top_p = option(given, "top_p", o.sampler.top_p);
  o.sampler.min_p = option(given, "min_p", o.sampler.min_p);
  o.sampler.repetition_penalty = option(given, "repetition_penalty", o.sampler.repetition_penalty);
  o.sampler.seed = option(given, "seed", o.sampler.seed);
  o.stop_ids = option(given, "stop_ids", o.stop_ids);
  o.reuse_prefix = option(given, "reuse_prefix", o.reuse_prefix);
  o.restart_window = option(given, "restart_window", o.restart_window);
  o.speculate = option(given, "speculate", o.speculate);
  o.resume = option(given, "continue", o.resume);
  return o;
}

nb::dict dict_of(const farthing::Generation& made, bool kernels, bool vision) {
  const farthing::Stats& s = made.stats;
  nb::dict stats;
  stats["prompt_tokens"] = s.prompt_tokens;
  stats["new_tokens"] = s.new_tokens;
  stats["passes"] = s.passes;
  stats["rows"] = s.rows;
  stats["prefill_seconds"] = s.prefill_seconds;
  stats["decode_seconds"] = s.decode_seconds;
  stats["first_token_seconds"] = s.first_token_seconds;
  stats["prefill_cpu_seconds"] = s.prefill_cpu_seconds;
  stats["decode_cpu_seconds"] = s.decode_cpu_seconds;
  stats["model_seconds"] = s.model_seconds;
  stats["restarts"] = s.restarts;
  stats["speculation"] = farthing::dict_of(s.speculation);
  stats["kernels"] = kernels;
  if (vision) stats["vision"] = farthing::dict_of(s.vision);
  nb::dict result;
  result["ids"] = made.ids;
  result["stop_reason"] = farthing::name(made.reason);
  result["stop_id"] = made.stop_id ? nb::cast(*made.stop_id) : nb::none();
  result["stats"] = stats;
  return result;
}

struct PyEngine {
  Engine engine;
  bool kernels;
};

nb::dict generate(PyEngine& self, const std::vector<std::int32_t>& prompt, const nb::dict& options, nb::object on_token,
                  nb::object images) {
  const farthing::GenerateOptions how = options_of(options);
  const farthing::PyImages shown = farthing::images_of(images);
  std::function<bool(std::int32_t)> callback;
  if (!on_token.is_none()) {
    callback = [&on_token](std::int32_t id) {
      const nb::gil_scoped_acquire held;
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
      return nb::cast<bool>(on_token(id));
    };
  }
  farthing::Generation made;
  {
    const nb::gil_scoped_release released;
    made = self.engine.generate(prompt, how, callback, shown.images);
  }
  return dict_of(made, self.kernels, self.engine.bundle().vision.has_value());
}

nb::list generate_all(PyEngine& self, const std::vector<std::vector<std::int32_t>>& prompts, const nb::list& options,
                      std::int64_t batch, nb::object on_token) {
  std::vector<farthing::GenerateOptions> how;
  for (const nb::handle each : options) how.push_back(options_of(nb::cast<nb::dict>(each)));
  std::function<bool(std::size_t, std::int32_t)> callback;
  if (!on_token.is_none()) {
    callback = [&on_token](std::size_t index, std::int32_t id) {
      const nb::gil_scoped_acquire held;
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
      return nb::cast<bool>(on_token(index, id));
    };
  }
  std::vector<farthing::Generation> made;
  {
    const nb::gil_scoped_release released;
    made = self.engine.generate_all(prompts, how, batch, callback);
  }
  nb::list results;
  for (const farthing::Generation& each : made) results.append(dict_of(each, self.kernels, false));
  return results;
}

nb::object extend(PyEngine& self, const std::vector<std::int32_t>& ids) {
  std::span<const float> all;
  {
    const nb::gil_scoped_release released;
    all = self.engine.extend(ids);
  }
  auto* copy = new float[all.size()];
  std::copy(all.begin(), all.end(), copy);
  const nb::capsule owner(copy, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<2>>(copy, {ids.size(), all.size() / ids.size()}, owner));
}

using Grid = std::tuple<std::vector<std::int64_t>, std::vector<std::int64_t>, std::vector<double>>;

farthing::PassCost cost_of(const Grid& grid) {
  const auto& [rows, past, seconds] = grid;
  return seconds.empty() ? farthing::PassCost() : farthing::PassCost(rows, past, seconds);
}

void speculate(PyEngine& self, nb::object drafter, nb::object acceptor, const nb::dict& options, const Grid& cost) {
  if (drafter.is_none()) {
    self.engine.speculate(nullptr, nullptr, {}, {});
    return;
  }
  self.engine.speculate(farthing::drafter_of(std::move(drafter)),
                        acceptor.is_none() ? nullptr : farthing::acceptor_of(std::move(acceptor)),
                        farthing::speculation_options(options), cost_of(cost));
}

Grid measure(PyEngine& self, const std::vector<std::int64_t>& rows, const std::vector<std::int64_t>& past, int rounds) {
  const nb::gil_scoped_release released;
  const farthing::PassCost cost = self.engine.measure(rows, past, rounds);
  return {cost.rows(), cost.past(), cost.grid()};
}

nb::object logits(PyEngine& self) {
  const auto all = self.engine.logits();
  auto* copy = new float[all.size()];
  std::copy(all.begin(), all.end(), copy);
  const nb::capsule owner(copy, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<1>>(copy, {all.size()}, owner));
}

}  // namespace

NB_MODULE(_core, module) {
  module.doc() = "The C++ core of farthing.";
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const farthing::Error& error) {
      const nb::object type = nb::module_::import_("farthing.errors").attr(class_of(error.status()));
      PyErr_SetString(type.ptr(), error.what());
    }
  });
  module.def("tensorrt_headers", &farthing::tensorrt_headers);
  farthing::bind_drafters(module);
  farthing::bind_images(module);
  farthing::bind_drawing(module);
  nb::class_<PyEngine>(module, "Engine")
      .def(
          "__init__",
          [](PyEngine* self, const std::string& path, int threads, std::int64_t context, const std::string& onnxruntime,
             const std::string& ops_library, bool hashes, std::int64_t chunk, bool tensorrt, bool cuda_graphs,
             std::int64_t image_cache) {
            farthing::EngineOptions o;
            o.backend = {onnxruntime, ops_library, threads, context, chunk, hashes};
            o.hashes = hashes;
            o.tensorrt = tensorrt;
            o.cuda_graphs = cuda_graphs;
            o.image_cache_bytes = std::max<std::int64_t>(image_cache, 0);
            const nb::gil_scoped_release released;
            new (self) PyEngine{Engine(path, o), !ops_library.empty()};
          },
          "bundle_path"_a, "threads"_a = 0, "context"_a = 0, "onnxruntime"_a = "", "ops_library"_a = "",
          "hashes"_a = true, "chunk"_a = 256, "tensorrt"_a = false, "cuda_graphs"_a = false,
          "image_cache"_a = farthing::EngineOptions().image_cache_bytes)
      .def_prop_ro("capacity", [](const PyEngine& self) { return self.engine.capacity(); })
      .def_prop_ro("vocab_size", [](const PyEngine& self) { return self.engine.bundle().vocab_size; })
      .def_prop_ro("length", [](const PyEngine& self) { return self.engine.tokens().size(); })
      .def_prop_ro("tokens", [](const PyEngine& self) { return self.engine.tokens(); })
      .def("reset", [](PyEngine& self) { self.engine.reset(); })
      .def(
          "rewind", [](PyEngine& self, std::int64_t length) { self.engine.rewind(length); }, "length"_a)
      .def(
          "prefill",
          [](PyEngine& self, const std::vector<std::int32_t>& ids, nb::object images) {
            const farthing::PyImages shown = farthing::images_of(images);
            const nb::gil_scoped_release released;
            self.engine.prefill(ids, shown.images);
          },
          "ids"_a, "images"_a = nb::none())
      .def("extend", &extend, "ids"_a)
      .def("logits", &logits)
      .def("generate", &generate, "prompt_ids"_a, "options"_a, "on_token"_a = nb::none(), "images"_a = nb::none())
      .def("generate_all", &generate_all, "prompts"_a, "options"_a, "batch"_a, "on_token"_a = nb::none())
      .def("speculate", &speculate, "drafter"_a.none(), "acceptor"_a.none(), "options"_a, "cost"_a)
      .def(
          "draft",
          [](PyEngine& self, const std::string& name, const std::string& table, const nb::dict& options,
             const std::string& bundle) {
            const farthing::DraftOptions how{name, table, bundle, farthing::speculation_options(options)};
            const nb::gil_scoped_release released;
            self.engine.draft(how);
          },
          "name"_a, "table"_a = "", "options"_a = nb::dict(), "bundle"_a = "")
      .def_prop_ro("drafter",
                   [](const PyEngine& self) {
                     const farthing::Speculation* guessing = self.engine.speculation();
                     return std::string(guessing ? guessing->drafter().name() : "none");
                   })
      .def_prop_ro("acceptor",
                   [](const PyEngine& self) {
                     const farthing::Speculation* guessing = self.engine.speculation();
                     return std::string(guessing ? guessing->acceptor().name() : "exact");
                   })
      .def("tune",
           [](PyEngine& self) {
             const nb::gil_scoped_release released;
             return self.engine.tune();
           })
      .def("measure", &measure, "rows"_a, "past"_a, "rounds"_a = 3)
      .def("cancel", [](PyEngine& self) { self.engine.cancel(); })
      .def(
          "save_state", [](PyEngine& self, const std::filesystem::path& path) { self.engine.save_state(path); },
          "path"_a)
      .def(
          "load_state", [](PyEngine& self, const std::filesystem::path& path) { self.engine.load_state(path); },
          "path"_a);
}
