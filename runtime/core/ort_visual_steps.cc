#include "ort_visual_steps.h"

#include <set>

#include "error.h"
#include "ort_session.h"
#include "tensors.h"

namespace farthing {

OrtVisualSteps::OrtVisualSteps(const Bundle& bundle, const OrtOptions& options)
    : bundle_(bundle), options_(options), memory_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)) {
  options_.optimised = false;  // the compiled graph is the decoder's
}

Ort::Session& OrtVisualSteps::session(const std::string& graph) {
  if (const auto found = sessions_.find(graph); found != sessions_.end()) return found->second;
  const auto& path = bundle_.vision.value().graphs.at(graph);
  try {
    return sessions_.emplace(graph, Ort::Session(ort_environment(), path.c_str(), ort_shared_session_options(options_)))
        .first->second;
  } catch (const Ort::Exception& error) {
    refuse(Status::bundle, path.string(), std::string("refused by ONNX Runtime (") + error.what() + ")",
           "a graph it can run", "update onnxruntime, or export the bundle again");
  }
}

std::int64_t OrtVisualSteps::run(const VisualPass& pass, std::span<Buffer> keys, std::span<Buffer> values,
                                 std::int64_t slots) {
  const VisionSpec& spec = bundle_.vision.value();
  Ort::Session& step = session(pass.step);
  Ort::IoBinding binding(step);
  Ort::AllocatorWithDefaultOptions allocator;
  std::set<std::string> inputs;
  for (std::size_t i = 0; i < step.GetInputCount(); ++i) inputs.insert(step.GetInputNameAllocated(i, allocator).get());
  const auto need = [&](const std::string& name) {
    if (inputs.erase(name)) return;
    refuse(Status::bundle, "input " + name + " of graph " + pass.step, "missing", "present", "export the bundle again");
  };
  const auto view = [&]<class T>(const T* data, std::vector<std::int64_t> shape) {
    std::size_t count = 1;
    for (const std::int64_t n : shape) count *= static_cast<std::size_t>(n);
    return Ort::Value::CreateTensor<T>(memory_, const_cast<T*>(data), count, shape.data(), shape.size());
  };
  const std::int64_t past = pass.past, late = pass.past - pass.gap;
  need(tensors::kVisualEmbeds), need(tensors::kPositions), need(tensors::kPastLen);
  binding.BindInput(tensors::kVisualEmbeds.c_str(), view(pass.embeds.data(), {1, pass.rows, spec.hidden_size}));
  binding.BindInput(tensors::kPositions.c_str(),
                    view(pass.positions.data(), spec.mrope ? std::vector<std::int64_t>{3, 1, pass.rows}
                                                           : std::vector<std::int64_t>{1, pass.rows}));
  binding.BindInput(tensors::kPastLen.c_str(), view(&past, {1}));
  // A graph that drops no rows, in a bundle whose other graphs do, may still have to know how many the late layers hold.
  if (inputs.erase(tensors::kLateLen)) {
    binding.BindInput(tensors::kLateLen.c_str(), view(&late, {1}));
  } else if (pass.gap != 0) {
    refuse(Status::bundle, "input late_len of graph " + pass.step, "missing", "present", "export the bundle again");
  }
  const std::vector<std::int64_t> cache{1, bundle_.kv_heads, slots, bundle_.head_dim};
  for (std::size_t layer = 0; layer < keys.size(); ++layer) {
    const std::string number = std::to_string(layer);
    const auto in_place = [&](const std::string& in, const std::string& out, Buffer& buffer) {
      need(in + number);
      binding.BindInput((in + number).c_str(), view(buffer.data(), cache));
      binding.BindOutput((out + number).c_str(), view(buffer.data(), cache));
    };
    in_place(tensors::kPastK, tensors::kPresentK, keys[layer]);
    in_place(tensors::kPastV, tensors::kPresentV, values[layer]);
  }
  if (!inputs.empty()) {
    refuse(Status::bundle, "input " + *inputs.begin() + " of graph " + pass.step, "unknown", "one of the contract",
           "update farthing, or export the bundle again");
  }
  bool prunes = false;
  for (std::size_t i = 0; i < step.GetOutputCount(); ++i) {
    prunes |= step.GetOutputNameAllocated(i, allocator).get() == tensors::kKept;
  }
  if (prunes) binding.BindOutput(tensors::kKept.c_str(), memory_);
  try {
    step.Run(Ort::RunOptions(), binding);
  } catch (const Ort::Exception& error) {
    throw Error(Status::internal, std::string("ONNX Runtime stopped: ") + error.what());
  }
  if (!prunes) return pass.rows;
  const auto shape = binding.GetOutputValues().back().GetTensorTypeAndShapeInfo().GetShape();
  if (shape.size() != 2 || shape[0] != 1 || shape[1] < 1 || shape[1] > pass.rows || spec.prune_layer == 0) {
    refuse(Status::bundle, "output kept of graph " + pass.step, "not [1, up to " + std::to_string(pass.rows) + "]",
           "the rows that stay from prune_layer on", "export the bundle again");
  }
  return shape[1];
}

}  // namespace farthing
