#include "vision_encoder.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "../error.h"
#include "../ort_session.h"
#include "../tensors.h"

namespace farthing {
namespace {

std::string written(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (const std::int64_t n : shape) text += (text.size() > 1 ? "," : "") + std::to_string(n);
  return text + "]";
}

// What the graph made, as the manifest says it is. -1 = any number.
std::vector<std::int64_t> shape_of(const Ort::Value& value, const std::string& what,
                                   const std::vector<std::int64_t>& wanted, ONNXTensorElementDataType type) {
  const auto info = value.GetTensorTypeAndShapeInfo();
  auto shape = info.GetShape();
  bool sound = info.GetElementType() == type && shape.size() == wanted.size();
  for (std::size_t i = 0; sound && i < shape.size(); ++i) sound = wanted[i] < 0 || wanted[i] == shape[i];
  if (!sound) {
    refuse(Status::bundle, what, "of shape " + written(shape) + " or of another type",
           written(wanted) + " (-1: any) as the manifest says", "export the bundle again");
  }
  return shape;
}

const Ort::Value& output(const std::map<std::string, Ort::Value>& made, const std::string& name,
                         const std::string& graph) {
  const auto found = made.find(name);
  if (found == made.end()) {
    refuse(Status::bundle, "output " + name + " of graph " + graph, "missing", "present", "export the bundle again");
  }
  return found->second;
}

template <class T>
Ort::Value tensor(const Ort::MemoryInfo& memory, const std::vector<T>& values, std::vector<std::int64_t> shape) {
  // Inputs are read only; the interface has no const.
  return Ort::Value::CreateTensor<T>(memory, const_cast<T*>(values.data()), values.size(), shape.data(), shape.size());
}

}  // namespace

VisionEncoder::VisionEncoder(const Bundle& bundle, const OrtOptions& options, std::size_t cache_bytes)
    : spec_(bundle.vision.value()),
      options_(options),
      memory_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)),
      cache_(cache_bytes) {
  options_.optimised = false;  // a compiled graph is the decoder's
}

Ort::Session& VisionEncoder::session(const std::string& graph) {
  if (const auto found = sessions_.find(graph); found != sessions_.end()) return found->second;
  const auto& path = spec_.graphs.at(graph);
  try {
    return sessions_.emplace(graph, Ort::Session(ort_environment(), path.c_str(), ort_shared_session_options(options_)))
        .first->second;
  } catch (const Ort::Exception& error) {
    refuse(Status::bundle, path.string(), std::string("refused by ONNX Runtime (") + error.what() + ")",
           "a graph it can run", "update onnxruntime, or export the bundle again");
  }
}

std::map<std::string, Ort::Value> VisionEncoder::run(const std::string& graph, const Inputs& inputs) {
  Ort::Session& run = session(graph);
  Ort::AllocatorWithDefaultOptions allocator;
  Ort::IoBinding binding(run);
  for (std::size_t i = 0; i < run.GetInputCount(); ++i) {
    const std::string name = run.GetInputNameAllocated(i, allocator).get();
    const auto found = inputs.find(name);
    if (found == inputs.end()) {
      refuse(Status::bundle, "input " + name + " of graph " + graph, "unknown for this image", "one of the contract",
             "update farthing, or export the bundle again");
    }
    binding.BindInput(name.c_str(), found->second);
  }
  std::vector<std::string> names;
  for (std::size_t i = 0; i < run.GetOutputCount(); ++i) {
    names.emplace_back(run.GetOutputNameAllocated(i, allocator).get());
    binding.BindOutput(names.back().c_str(), memory_);
  }
  try {
    run.Run(Ort::RunOptions(), binding);
  } catch (const Ort::Exception& error) {
    throw Error(Status::internal, std::string("ONNX Runtime stopped: ") + error.what());
  }
  std::map<std::string, Ort::Value> made;
  auto values = binding.GetOutputValues();
  for (std::size_t i = 0; i < names.size(); ++i) made.emplace(names[i], std::move(values[i]));
  return made;
}

std::shared_ptr<const ImageFeatures> VisionEncoder::look(const Image& image) {
  const Views views = preprocess(image, spec_.preprocess);
  auto seen = std::make_shared<ImageFeatures>();
  const Layout& layout = seen->layout = views.layout;
  Inputs inputs;
  inputs.emplace(tensors::kPixels, tensor(memory_, views.pixels, {layout.count, layout.height, layout.width, 3}));
  const auto made = run(tensors::kVision, inputs);
  // Of one view the rows are its tokens; of several, every view has a whole grid.
  const Geometry geometry = geometry_of(layout, spec_.preprocess, spec_.grid, spec_.newline);
  shape_of(output(made, tensors::kFeatures, tensors::kVision), "output features of graph vision",
           {layout.count, layout.count == 1 ? geometry.rows : spec_.grid * spec_.grid, spec_.feature_size},
           ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  for (const auto& [name, value] : made) {
    const std::vector<std::int64_t> any(value.GetTensorTypeAndShapeInfo().GetShape().size(), -1);
    Array& array = seen->outputs[name];
    array.shape = shape_of(value, "output " + name + " of graph vision", any, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    const float* first = value.GetTensorData<float>();
    array.values.assign(first, first + value.GetTensorTypeAndShapeInfo().GetElementCount());
  }
  return seen;
}

// Positions of the kept rows, and how far the text behind is.
void VisionEncoder::place(const std::vector<std::int64_t>& kept, const Geometry& geometry, VisualRows& made) const {
  const auto rows = static_cast<std::size_t>(made.rows);
  made.positions.resize((spec_.mrope ? 3 : 1) * rows);
  if (spec_.mrope) {
    for (std::size_t i = 0; i < rows; ++i) {
      made.positions[i] = 0;
      made.positions[rows + i] = kept[i] / geometry.grid_columns;
      made.positions[2 * rows + i] = kept[i] % geometry.grid_columns;
    }
    made.advance = std::max(geometry.grid_rows, geometry.grid_columns);
  } else if (spec_.compact) {
    std::iota(made.positions.begin(), made.positions.end(), std::int64_t{0});
    made.advance = made.rows;
  } else {
    std::copy(kept.begin(), kept.end(), made.positions.begin());
    made.advance = geometry.rows;
  }
}

void VisionEncoder::perceive(const ImageFeatures& seen, VisualRows& made) {
  made.advance = 1;
  Inputs inputs;
  for (const auto& [name, array] : seen.outputs) inputs.emplace(name, tensor(memory_, array.values, array.shape));
  for (auto& [name, value] : run(tensors::kPerceive, inputs)) {
    const auto info = value.GetTensorTypeAndShapeInfo();
    shape_of(value, "output " + name + " of graph perceive", std::vector<std::int64_t>(info.GetShape().size(), -1),
             ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    const std::size_t count = info.GetElementCount();
    auto held = std::make_shared<Ort::Value>(std::move(value));
    const float* data = held->GetTensorData<float>();
    if (!std::all_of(data, data + count, [](float x) { return std::isfinite(x); })) {
      refuse(Status::request, name + " of the image", "not finite", "finite weights", "give another image");
    }
    made.changes.push_back({name, std::shared_ptr<const float>(std::move(held), data), count});
  }
}

VisualRows VisionEncoder::encode(const Image& image, const std::string& digest, const VisionLevel& level) {
  VisualRows made;
  made.digest = digest, made.level = level.id;
  auto seen = cache_.find(digest);
  made.cached = seen != nullptr;
  if (!seen) cache_.add(digest, seen = look(image));
  if (spec_.perceive) {
    perceive(*seen, made);
    return made;
  }
  Geometry geometry = geometry_of(seen->layout, spec_.preprocess, spec_.grid, spec_.newline);
  const VisionChoice& choice = spec_.choice_of(level, geometry.rows, geometry.newlines);
  made.step = choice.step, made.whole = geometry.rows;
  const std::int64_t grid = spec_.grid / level.pool;
  if (level.pool > 1) geometry = geometry_of(seen->layout, spec_.preprocess, grid, spec_.newline);

  Inputs inputs;
  for (const auto& [name, array] : seen->outputs) inputs.emplace(name, tensor(memory_, array.values, array.shape));
  Taps taps;
  std::vector<float> regions;
  if (!geometry.order.empty()) {
    taps = taps_of(geometry, grid);
    regions = regions_of(seen->layout, grid);
    inputs.emplace(tensors::kOrder, tensor(memory_, geometry.order, {geometry.rows}));
    inputs.emplace(tensors::kGroup, tensor(memory_, geometry.group, {1, geometry.rows}));
    inputs.emplace(tensors::kTapIndex, tensor(memory_, taps.index, {geometry.rows, 4}));
    inputs.emplace(tensors::kTapWeight, tensor(memory_, taps.weight, {geometry.rows, 4}));
    inputs.emplace(tensors::kRegions, tensor(memory_, regions, {seen->layout.count, grid * grid}));
  }
  auto outputs = run(choice.project, inputs);
  const Ort::Value& embeds = output(outputs, tensors::kVisualEmbeds, choice.project);
  made.rows = shape_of(embeds, "output visual_embeds of graph " + choice.project, {1, -1, spec_.hidden_size},
                       ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)[1];
  std::vector<std::int64_t> kept(static_cast<std::size_t>(made.rows));
  std::iota(kept.begin(), kept.end(), std::int64_t{0});
  if (const auto found = outputs.find(tensors::kKept); found != outputs.end()) {
    shape_of(found->second, "output kept of graph " + choice.project, {1, made.rows},
             ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
    kept.assign(found->second.GetTensorData<std::int64_t>(), found->second.GetTensorData<std::int64_t>() + made.rows);
    const bool ascending = std::adjacent_find(kept.begin(), kept.end(), std::greater_equal<>()) == kept.end();
    if (!ascending || kept.empty() || kept.front() < 0 || kept.back() >= geometry.rows) {
      refuse(Status::bundle, "output kept of graph " + choice.project, "not ascending row numbers",
             "those of " + std::to_string(geometry.rows) + " rows", "export the bundle again");
    }
  } else if (level.pool > 1) {
    // Pooled (Matryoshka): the image is a shorter sequence of its own, numbered from its beginning.
    geometry.rows = made.rows;
  }
  if (made.rows < 1 || kept.back() >= geometry.rows ||
      (!outputs.contains(tensors::kKept) && made.rows != geometry.rows)) {
    refuse(Status::bundle, "rows of graph " + choice.project, std::to_string(made.rows),
           std::to_string(geometry.rows) + ", as it does not say which it kept", "export the bundle again");
  }
  place(kept, geometry, made);
  auto held = std::make_shared<Ort::Value>(std::move(outputs.at(tensors::kVisualEmbeds)));
  const float* data = held->GetTensorData<float>();
  made.embeds = std::shared_ptr<const float>(std::move(held), data);
  return made;
}

}  // namespace farthing
