#include "ort_backend.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <numeric>
#include <optional>
#include <vector>

#include "buffer.h"
#include "compiled.h"
#include "error.h"
#include "ort_draft_chain.h"
#include "ort_library.h"
#include "ort_session.h"
#include "sha256.h"
#include "tensors.h"

namespace farthing {
namespace {

// The optimised graph that `farthing compile --target cpu` left for exactly this ONNX Runtime and these kernels, if any.
std::optional<std::filesystem::path> compiled_graph(const Bundle& bundle, const OrtOptions& options) {
  const std::vector<Compiled> all = list_compiled(bundle, "cpu");
  if (all.empty()) return std::nullopt;
  const std::string kernels = options.ops_library.empty() ? "" : sha256_of(options.ops_library);
  for (const Compiled& c : all) {
    if (c.bundle != bundle.graph_sha256 || c.version != onnxruntime_version() || c.kernels != kernels) continue;
    if (options.hashes) check_compiled(c);
    return c.file;
  }
  return std::nullopt;
}

}  // namespace

Ort::SessionOptions ort_session_options(const OrtOptions& options) {
  Ort::SessionOptions session;
  session.SetIntraOpNumThreads(options.threads);
  session.SetInterOpNumThreads(1);
  session.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
  session.SetGraphOptimizationLevel(options.optimised ? ORT_DISABLE_ALL : ORT_ENABLE_ALL);
  // Block-wise int4 weights with int8 activations inside the product: 3.5 times faster than float activations at one row.
  session.AddConfigEntry("session.qdq_matmulnbits_accuracy_level", "4");
  if (!options.ops_library.empty()) session.RegisterCustomOpsLibrary(options.ops_library.c_str());
  return session;
}

namespace {

class OrtBackend final : public Backend {
 public:
  OrtBackend(const Bundle& bundle, const OrtOptions& options)
      : bundle_(bundle),
        options_(options),
        session_(ort_environment(), bundle.graph.c_str(), ort_session_options(options)),
        memory_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)) {
    const auto cache = static_cast<std::size_t>(bundle.kv_heads * options.capacity * bundle.head_dim);
    for (std::int64_t layer = 0; layer < bundle.layers; ++layer) {
      keys_.emplace_back(cache);
      values_.emplace_back(cache);
    }
    ids_.resize(static_cast<std::size_t>(options.chunk));
    positions_.resize(ids_.size());
    rows_.resize(ids_.size());
    if (has_input(tensors::kVisible)) visible_.resize(ids_.size() * words(ids_.size()));
    if (bundle.drafts > 0) chain_.emplace(bundle, options);
    if (bundle.masks > 0) mask_rows_.resize(ids_.size());
    judges_ = bundle.judge && has_output(tensors::kJudge);
    shapes_.reserve(kShapes);
  }

  std::span<const float> run(const Pass& pass) override {
    const std::size_t rows = pass.ids.size(), wanted = pass.logit_rows.size();
    if (rows == 0 || rows > ids_.size() || pass.positions.size() != rows || wanted == 0 || wanted > rows) {
      throw Error(Status::internal, "a pass of " + std::to_string(rows) + " rows was asked for");
    }
    if (pass.past < 0 || pass.past > options_.capacity - static_cast<std::int64_t>(rows)) {
      refuse(Status::request, "context", std::to_string(pass.past) + " + " + std::to_string(rows) + " tokens",
             "at most " + std::to_string(options_.capacity), "open the bundle with a longer context");
    }
    std::copy(pass.ids.begin(), pass.ids.end(), ids_.begin());
    std::copy(pass.positions.begin(), pass.positions.end(), positions_.begin());
    std::copy(pass.logit_rows.begin(), pass.logit_rows.end(), rows_.begin());
    past_ = pass.past;
    fill_visible(pass);
    const auto masks = static_cast<std::size_t>(pass.mask_rows);
    if (masks > (bundle_.masks > 0 ? rows - wanted : 0))
      throw Error(Status::internal, "a pass with too many masks was asked for");
    std::iota(mask_rows_.begin(), mask_rows_.begin() + static_cast<std::ptrdiff_t>(masks),
              static_cast<std::int64_t>(rows - masks));
    Shape& shape = bound(rows, wanted, masks);
    const auto start = std::chrono::steady_clock::now();
    try {
      session_.Run(run_options_, shape.binding);
    } catch (const Ort::Exception& error) {
      throw Error(Status::internal, std::string("ONNX Runtime stopped: ") + error.what());
    }
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    judged_ = {judge_.data(), judges_ ? wanted : 0};
    latents_ = {mask_hidden_.data(), masks * static_cast<std::size_t>(bundle_.hidden_size)};
    return {logits_.data(), wanted * static_cast<std::size_t>(bundle_.vocab_size)};
  }

  bool judges() const override { return judges_; }
  std::span<const float> judge() override { return judged_; }
  std::int64_t masks() const override { return bundle_.masks; }
  std::int64_t drafts() const override { return bundle_.drafts; }
  std::span<const float> row_latents(std::int64_t row) override {
    const auto width = static_cast<std::size_t>(bundle_.row_latents);
    return std::span<const float>(row_latents_).subspan(static_cast<std::size_t>(row) * width, width);
  }
  std::int64_t latent_size() const override { return bundle_.hidden_size; }
  std::span<const float> mask_latents() override { return latents_; }
  void draft_chain(std::int32_t first, std::span<const float> latents, std::span<std::int32_t> ids,
                   std::span<float> chances) override {
    chain_.value().run(first, latents, ids, chances);
  }
  bool branches() const override { return !visible_.empty(); }
  void reserve(std::int64_t rows) override {
    const auto wanted = static_cast<std::size_t>(std::min(rows, options_.chunk) * bundle_.vocab_size);
    if (logits_.size() >= wanted) return;
    logits_.resize(wanted);
    shapes_.clear();
  }
  void keep(std::int64_t past, std::span<const std::int32_t> rows) override {
    const auto width = static_cast<std::size_t>(bundle_.head_dim);
    const auto head = static_cast<std::size_t>(options_.capacity) * width;
    for (auto* caches : {&keys_, &values_}) {
      for (Buffer& cache : *caches) {
        for (float* at = cache.data(); at < cache.data() + cache.size(); at += head) {
          float* to = at + static_cast<std::size_t>(past) * width;
          for (std::size_t t = 0; t < rows.size(); ++t) {
            const auto from = static_cast<std::size_t>(rows[t]);
            if (from != t) std::copy_n(to + from * width, width, to + t * width);
          }
        }
      }
    }
  }
  std::int64_t capacity() const override { return options_.capacity; }
  std::int64_t vocab_size() const override { return bundle_.vocab_size; }
  std::int64_t chunk() const override { return options_.chunk; }
  std::span<float> keys(std::int64_t layer) override { return keys_[static_cast<std::size_t>(layer)].span(); }
  std::span<float> values(std::int64_t layer) override { return values_[static_cast<std::size_t>(layer)].span(); }
  double engine_seconds() const override { return seconds_; }

 private:
  bool has_input(const std::string& name) {
    Ort::AllocatorWithDefaultOptions allocator;
    for (std::size_t i = 0; i < session_.GetInputCount(); ++i) {
      if (session_.GetInputNameAllocated(i, allocator).get() == name) return true;
    }
    return false;
  }

  bool has_output(const std::string& name) {
    Ort::AllocatorWithDefaultOptions allocator;
    for (std::size_t i = 0; i < session_.GetOutputCount(); ++i) {
      if (session_.GetOutputNameAllocated(i, allocator).get() == name) return true;
    }
    return false;
  }

  static std::size_t words(std::size_t rows) { return (rows + 63) / 64; }

  void fill_visible(const Pass& pass) {
    const std::size_t rows = pass.ids.size(), count = words(rows);
    if (pass.visible.size() != (pass.visible.empty() ? 0 : rows * count) ||
        (visible_.empty() && !pass.visible.empty())) {
      throw Error(Status::internal, "a pass with branches was asked for that the graph does not take");
    }
    if (visible_.empty()) return;
    if (!pass.visible.empty()) {
      std::copy(pass.visible.begin(), pass.visible.end(), visible_.begin());
      return;
    }
    std::fill_n(visible_.begin(), rows * count, 0);
    for (std::size_t row = 0; row < rows; ++row) {
      std::int64_t* bits = visible_.data() + row * count;
      for (std::size_t w = 0; w < row / 64; ++w) bits[w] = -1;
      bits[row / 64] = static_cast<std::int64_t>(~std::uint64_t{0} >> (63 - row % 64));
    }
  }

  // Everything bound for one (rows, wanted): the tensors are views of the same buffers, so binding again is only needed when
  // the shape changes. Those of decoding and of drafts come again and again and are kept; of prefill only the last.
  struct Shape {
    std::size_t rows = 0, wanted = 0, masks = 0;
    Ort::IoBinding binding{nullptr};
    std::vector<Ort::Value> values;
  };
  static constexpr std::size_t kShapes = 80;

  Shape& bound(std::size_t rows, std::size_t wanted, std::size_t masks) {
    for (Shape& shape : shapes_) {
      if (shape.rows == rows && shape.wanted == wanted && shape.masks == masks) return shape;
    }
    const std::size_t latents = std::max<std::size_t>(masks, 1) * static_cast<std::size_t>(bundle_.hidden_size);
    if (bundle_.masks > 0 && mask_hidden_.size() < latents) {
      mask_hidden_.resize(latents);
      shapes_.clear();
    }
    const std::size_t logits = wanted * static_cast<std::size_t>(bundle_.vocab_size);
    if (logits_.size() < logits) {
      logits_.resize(logits);
      shapes_.clear();  // their bindings point into the buffer that moved
    }
    if (const auto most = wanted * static_cast<std::size_t>(bundle_.row_latents); row_latents_.size() < most) {
      row_latents_.resize(most);
      shapes_.clear();
    }
    if (judges_ && judge_.size() < wanted) {
      judge_.resize(wanted);
      shapes_.clear();
    }
    const bool prefill = rows > 1 && wanted == 1;
    auto old = std::find_if(shapes_.begin(), shapes_.end(),
                            [](const Shape& shape) { return shape.rows > 1 && shape.wanted == 1; });
    if (!prefill) old = shapes_.size() < kShapes ? shapes_.end() : shapes_.begin();
    Shape& shape = old == shapes_.end() ? shapes_.emplace_back() : *old;
    shape = Shape{rows, wanted, masks, Ort::IoBinding(session_), {}};
    const std::int64_t two_rows[] = {1, static_cast<std::int64_t>(rows)};
    const std::int64_t two_wanted[] = {1, static_cast<std::int64_t>(wanted)};
    const std::int64_t one[] = {1};
    const std::int64_t out[] = {1, static_cast<std::int64_t>(wanted), bundle_.vocab_size};
    bind(shape, tensors::kInputIds, view(ids_.data(), rows, two_rows));
    bind(shape, tensors::kPositions, view(positions_.data(), rows, two_rows));
    bind(shape, tensors::kPastLen, view(&past_, 1, one));
    bind(shape, tensors::kLogitRows, view(rows_.data(), wanted, two_wanted));
    const std::int64_t seen[] = {1, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(words(rows))};
    if (!visible_.empty()) bind(shape, tensors::kVisible, view(visible_.data(), rows * words(rows), seen));
    if (bundle_.row_latents > 0) {
      const std::int64_t latent[] = {1, static_cast<std::int64_t>(wanted), bundle_.row_latents};
      bind_output(shape, tensors::kRowLatents,
                  view(row_latents_.data(), wanted * static_cast<std::size_t>(bundle_.row_latents), latent));
    }
    if (judges_) bind_output(shape, tensors::kJudge, view(judge_.data(), wanted, two_wanted));
    if (bundle_.masks > 0) {
      const std::int64_t masked[] = {static_cast<std::int64_t>(masks)};
      const std::int64_t hidden[] = {1, static_cast<std::int64_t>(masks), bundle_.hidden_size};
      bind(shape, tensors::kMaskRows, view(mask_rows_.data(), masks, masked));
      bind_output(shape, tensors::kMaskHidden,
                  view(mask_hidden_.data(), masks * static_cast<std::size_t>(bundle_.hidden_size), hidden));
    }
    bind_output(shape, tensors::kLogits, view(logits_.data(), logits, out));
    const std::int64_t cache[] = {1, bundle_.kv_heads, options_.capacity, bundle_.head_dim};
    for (std::size_t layer = 0; layer < keys_.size(); ++layer) {
      const std::string number = std::to_string(layer);
      const auto in_place = [&](const std::string& past, const std::string& present, Buffer& buffer) {
        bind(shape, past + number, view(buffer.data(), buffer.size(), cache));
        bind_output(shape, present + number, view(buffer.data(), buffer.size(), cache));
      };
      in_place(tensors::kPastK, tensors::kPresentK, keys_[layer]);
      in_place(tensors::kPastV, tensors::kPresentV, values_[layer]);
    }
    return shape;
  }

  template <class T>
  Ort::Value view(T* data, std::size_t count, std::span<const std::int64_t> dims) {
    return Ort::Value::CreateTensor<T>(memory_, data, count, dims.data(), dims.size());
  }
  void bind(Shape& shape, const std::string& name, Ort::Value value) {
    shape.binding.BindInput(name.c_str(), value);
    shape.values.push_back(std::move(value));
  }
  void bind_output(Shape& shape, const std::string& name, Ort::Value value) {
    shape.binding.BindOutput(name.c_str(), value);
    shape.values.push_back(std::move(value));
  }

  Bundle bundle_;
  OrtOptions options_;
  Ort::Session session_;
  Ort::MemoryInfo memory_;
  Ort::RunOptions run_options_;
  std::vector<Buffer> keys_, values_;
  std::vector<std::int64_t> ids_, positions_, rows_, visible_;
  std::int64_t past_ = 0;
  std::vector<float> logits_;
  std::vector<Shape> shapes_;
  std::optional<OrtDraftChain> chain_;
  std::vector<std::int64_t> mask_rows_;
  std::vector<float> mask_hidden_, row_latents_, judge_;
  std::span<const float> latents_, judged_;
  bool judges_ = false;
  double seconds_ = 0;
};

}  // namespace

std::unique_ptr<Backend> open_ort_backend(const Bundle& bundle, const OrtOptions& options) {
  if (options.capacity < 1 || options.capacity > (std::int64_t{1} << 31) - 1) {
    refuse(Status::request, "context", std::to_string(options.capacity), "1 to 2147483647", "choose another context");
  }
  if (options.threads < 0 || options.threads > 1024) {
    refuse(Status::request, "threads", std::to_string(options.threads), "0 (all cores) to 1024",
           "choose another number");
  }
  if (options.chunk < 1 || options.chunk > 65536) {
    refuse(Status::request, "prefill chunk", std::to_string(options.chunk), "1 to 65536", "choose another number");
  }
  load_onnxruntime(options.onnxruntime);
  try {
    Bundle used = bundle;
    OrtOptions how = options;
    if (const auto graph = compiled_graph(bundle, options)) {
      used.graph = *graph;
      how.optimised = true;
    }
    if (bundle.recurrent()) return open_state_backend(used, how);
    return std::make_unique<OrtBackend>(used, how);
  } catch (const Ort::Exception& error) {
    refuse(Status::bundle, bundle.graph.string(), std::string("refused by ONNX Runtime (") + error.what() + ")",
           "a graph it can run", "update onnxruntime, or export the bundle again");
  }
}

}  // namespace farthing
