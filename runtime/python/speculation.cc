#include "speculation.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <string>

#include "../core/error.h"
#include "../core/speculation/factory.h"

namespace nb = nanobind;

namespace farthing {
namespace {

using Ids = std::vector<std::int32_t>;

Ids list(std::span<const std::int32_t> ids) { return {ids.begin(), ids.end()}; }

// A drop of the last reference may come from a thread without the interpreter.
class Held {
 public:
  explicit Held(nb::object object) : object_(std::move(object)) {}
  ~Held() {
    const nb::gil_scoped_acquire held;
    object_.reset();
  }
  Held(const Held&) = delete;
  const nb::object& operator*() const { return object_; }

 private:
  nb::object object_;
};

class PythonDrafter final : public Drafter {
 public:
  explicit PythonDrafter(nb::object object)
      : name_(nb::cast<std::string>(object.type().attr("__name__"))), object_(std::move(object)) {}

  const char* name() const override { return name_.c_str(); }
  void begin(std::span<const std::int32_t> tokens) override { call("begin", list(tokens)); }
  void observe(std::span<const std::int32_t> tokens) override { call("observe", list(tokens)); }
  void propose(const DraftLimits& limits, Draft& draft) override {
    const nb::gil_scoped_acquire held;
    const nb::object made = (*object_).attr("propose")(limits.nodes, limits.depth, limits.tree);
    const auto [ids, parents, chances] = nb::cast<std::tuple<Ids, Ids, std::vector<float>>>(made);
    draft.ids = ids;
    draft.parents = parents;
    draft.chances = chances;
  }
  void verified(const Draft& draft, std::span<const std::int32_t> nodes, std::span<const std::int32_t> path) override {
    call("verified", draft.ids, list(nodes), list(path));
  }

 private:
  template <class... Args>
  void call(const char* method, const Args&... args) {
    const nb::gil_scoped_acquire held;
    (*object_).attr(method)(args...);
  }
  std::string name_;
  Held object_;
};

class PythonAcceptor final : public Acceptor {
 public:
  explicit PythonAcceptor(nb::object object)
      : name_(nb::cast<std::string>(object.type().attr("__name__"))),
        guarantee_(nb::cast<std::string>(object.attr("guarantee"))),
        object_(std::move(object)) {}

  const char* name() const override { return name_.c_str(); }
  const char* guarantee() const override { return guarantee_.c_str(); }
  void begin() override {
    const nb::gil_scoped_acquire held;
    (*object_).attr("begin")();
  }
  std::int32_t accept(const Verification& pass, std::int32_t row, std::int32_t drawn) override {
    const nb::gil_scoped_acquire held;
    nb::dict children;  // id -> row
    const auto& plan = pass.plan;
    for (auto i = static_cast<std::size_t>(row) + 1; i < plan.rows(); ++i) {
      if (plan.parents()[i] == row && !children.contains(nb::int_(plan.ids()[i]))) {
        children[nb::int_(plan.ids()[i])] = static_cast<std::int32_t>(i);
      }
    }
    const auto logits = pass.row(row);
    // A view: valid for the call alone.
    const nb::ndarray<nb::numpy, const float, nb::ndim<1>> view(logits.data(), {logits.size()}, nb::none());
    const nb::object said = (*object_).attr("accept")(nb::cast(view, nb::rv_policy::copy), drawn, children);
    if (said.is_none() || !children.contains(said)) return -1;
    return nb::cast<std::int32_t>(children[said]);
  }

 private:
  std::string name_, guarantee_;
  Held object_;
};

}  // namespace

std::shared_ptr<Drafter> drafter_of(nb::object object) { return std::make_shared<PythonDrafter>(std::move(object)); }
std::shared_ptr<Acceptor> acceptor_of(nb::object object) { return std::make_shared<PythonAcceptor>(std::move(object)); }

SpeculationOptions speculation_options(const nb::dict& given) {
  SpeculationOptions o;
  if (given.contains("nodes")) o.nodes = nb::cast<std::int64_t>(given["nodes"]);
  o.depth = given.contains("depth") ? nb::cast<std::int64_t>(given["depth"]) : o.nodes;
  if (given.contains("tree")) o.tree = nb::cast<bool>(given["tree"]);
  if (given.contains("judge")) o.judge = nb::cast<bool>(given["judge"]);
  if (given.contains("delta")) o.delta = nb::cast<double>(given["delta"]);
  if (given.contains("always")) o.always = nb::cast<bool>(given["always"]);
  if (given.contains("masks")) {
    const auto masks = nb::cast<std::string>(given["masks"]);
    using Masks = SpeculationOptions::Masks;
    if (masks != "paying" && masks != "all" && masks != "last") {
      refuse(Status::request, "masks", "'" + masks + "'", "paying, all or last", "choose one");
    }
    o.masks = masks == "all" ? Masks::all : masks == "last" ? Masks::last : Masks::paying;
  }
  return o;
}

namespace {

struct TextDrafter {
  TextDrafter(const std::string& name, std::int64_t capacity, std::shared_ptr<const TableFile> table)
      : drafter(make_text_drafter(name, capacity, std::move(table))) {
    if (!drafter) {
      refuse(Status::request, "drafter", "'" + name.substr(0, 40) + "'", "lookup, aded or auto", "choose one");
    }
  }
  std::shared_ptr<Drafter> drafter;
  Draft draft;
};

}  // namespace

void bind_drafters(nb::module_& module) {
  nb::class_<TableFile>(module, "TableFile")
      .def(nb::init<const std::filesystem::path&, std::int64_t, const std::string&>(), nb::arg("path"),
           nb::arg("vocab_size"), nb::arg("tokenizer"))
      .def_prop_ro("pairs", &TableFile::pairs)
      .def_prop_ro("bytes", &TableFile::bytes)
      .def("find", [](const TableFile& self, std::int32_t a, std::int32_t b) {
        std::vector<std::tuple<std::int32_t, float>> found;
        const Successors* s = self.find(a, b);
        for (std::size_t i = 0; s != nullptr && i < static_cast<std::size_t>(s->count); ++i) {
          found.emplace_back(s->ids[i], s->scores[i]);
        }
        return found;
      });
  nb::class_<TextDrafter>(module, "TextDrafter")
      .def(nb::init<const std::string&, std::int64_t, std::shared_ptr<const TableFile>>(), nb::arg("name"),
           nb::arg("capacity"), nb::arg("table").none() = nb::none())
      .def("begin", [](TextDrafter& self, const Ids& tokens) { self.drafter->begin(tokens); })
      .def("observe", [](TextDrafter& self, const Ids& tokens) { self.drafter->observe(tokens); })
      .def("propose",
           [](TextDrafter& self, std::int64_t nodes, std::int64_t depth, bool tree) {
             self.draft.clear();
             self.drafter->propose({nodes, depth, tree}, self.draft);
             return std::make_tuple(self.draft.ids, self.draft.parents, self.draft.chances);
           })
      .def("verified", [](TextDrafter& self, const Ids& nodes, const Ids& path) {
        self.drafter->verified(self.draft, nodes, path);
      });
}

nb::dict dict_of(const SpeculationStats& s) {
  nb::dict stats;
  stats["drafts"] = s.drafts;
  stats["drafted"] = s.drafted;
  stats["accepted"] = s.accepted;
  stats["judged"] = s.judged;
  stats["withheld"] = s.withheld;
  stats["draft_seconds"] = s.draft_seconds;
  return stats;
}

}  // namespace farthing
