// The graph of a gated associative memory in ONNX Runtime: a few rows of state per layer instead of a cache.
#include <algorithm>
#include <chrono>
#include <vector>

#include "error.h"
#include "ort_session.h"
#include "tensors.h"

namespace farthing {
namespace {

class OrtStateBackend final : public Backend {
 public:
  OrtStateBackend(const Bundle& bundle, const OrtOptions& options)
      : bundle_(bundle),
        options_(options),
        row_(static_cast<std::size_t>(bundle.state_width)),
        kept_(static_cast<std::size_t>(bundle.state_rows)),
        session_(ort_environment(), bundle.graph.c_str(), ort_session_options(options)),
        memory_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)) {
    const auto chunk = static_cast<std::size_t>(options.chunk);
    states_.resize(static_cast<std::size_t>(bundle.layers), std::vector<float>(kept_ * row_));
    windows_.resize(states_.size(), std::vector<float>((kept_ + chunk) * row_));
    ids_.resize(chunk);
    positions_.resize(chunk);
    rows_.resize(chunk);
  }

  std::span<const float> run(const Pass& pass) override {
    const std::size_t rows = pass.ids.size(), wanted = pass.logit_rows.size();
    if (rows == 0 || rows > ids_.size() || pass.positions.size() != rows || wanted == 0 || wanted > rows) {
      throw Error(Status::internal, "a pass of " + std::to_string(rows) + " rows was asked for");
    }
    if (pass.past < 0 || pass.past > options_.capacity - static_cast<std::int64_t>(rows)) {
      refuse(Status::request, "position", std::to_string(pass.past) + " + " + std::to_string(rows) + " tokens",
             "at most " + std::to_string(options_.capacity), "shorten the text, or generate with a restart window");
    }
    std::copy(pass.ids.begin(), pass.ids.end(), ids_.begin());
    std::copy(pass.positions.begin(), pass.positions.end(), positions_.begin());
    std::copy(pass.logit_rows.begin(), pass.logit_rows.end(), rows_.begin());
    Shape& shape = bound(rows, wanted);
    const auto start = std::chrono::steady_clock::now();
    try {
      session_.Run(run_options_, shape.binding);
    } catch (const Ort::Exception& error) {
      throw Error(Status::internal, std::string("ONNX Runtime stopped: ") + error.what());
    }
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    start_ = pass.past;
    ran_ = static_cast<std::int64_t>(rows);
    take(rows);
    return {logits_.data(), wanted * static_cast<std::size_t>(bundle_.vocab_size)};
  }

  std::int64_t rewind(std::int64_t length) override {
    if (ran_ > 0 && length >= start_ && length <= start_ + ran_) {
      take(static_cast<std::size_t>(length - start_));
      return length;
    }
    // A row of layer l depends on l * kept rows before it, so the state follows from the last layers * kept tokens alone.
    ran_ = 0;
    for (auto& state : states_) std::fill(state.begin(), state.end(), 0.0f);
    return std::max<std::int64_t>(0, length - bundle_.layers * bundle_.state_rows);
  }

  std::span<float> state(std::int64_t layer) override { return states_[static_cast<std::size_t>(layer)]; }
  void state_loaded() override { ran_ = 0; }  // the window belongs to another sequence

  std::int64_t capacity() const override { return options_.capacity; }
  std::int64_t vocab_size() const override { return bundle_.vocab_size; }
  std::int64_t chunk() const override { return options_.chunk; }
  double engine_seconds() const override { return seconds_; }

 private:
  // Everything bound for one (rows, wanted). Two are kept: decoding's one row, and the last other shape.
  struct Shape {
    std::size_t rows = 0, wanted = 0;
    Ort::IoBinding binding{nullptr};
    std::vector<Ort::Value> values;
  };

  // The state after the first `accepted` rows of the last pass.
  void take(std::size_t accepted) {
    for (std::size_t i = 0; i < states_.size(); ++i) {
      std::copy_n(windows_[i].data() + accepted * row_, kept_ * row_, states_[i].data());
    }
  }

  Shape& bound(std::size_t rows, std::size_t wanted) {
    Shape& shape = rows == 1 ? one_row_ : many_rows_;
    if (shape.rows == rows && shape.wanted == wanted) return shape;
    const std::size_t logits = wanted * static_cast<std::size_t>(bundle_.vocab_size);
    if (logits_.size() < logits) {
      logits_.resize(logits);
      one_row_ = {};  // its binding points into the buffer that moved
    }
    shape = Shape{rows, wanted, Ort::IoBinding(session_), {}};
    const std::int64_t two_rows[] = {1, static_cast<std::int64_t>(rows)};
    const std::int64_t two_wanted[] = {1, static_cast<std::int64_t>(wanted)};
    const std::int64_t out[] = {1, static_cast<std::int64_t>(wanted), bundle_.vocab_size};
    bind(shape, tensors::kInputIds, view(ids_.data(), rows, two_rows));
    bind(shape, tensors::kPositions, view(positions_.data(), rows, two_rows));
    bind(shape, tensors::kLogitRows, view(rows_.data(), wanted, two_wanted));
    bind_output(shape, tensors::kLogits, view(logits_.data(), logits, out));
    const std::int64_t state[] = {1, bundle_.state_rows, bundle_.state_width};
    const std::int64_t window[] = {1, bundle_.state_rows + two_rows[1], bundle_.state_width};
    for (std::size_t i = 0; i < states_.size(); ++i) {
      const std::string number = std::to_string(i);
      bind(shape, tensors::kConvState + number, view(states_[i].data(), states_[i].size(), state));
      bind_output(shape, tensors::kConvWindow + number, view(windows_[i].data(), (kept_ + rows) * row_, window));
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
  std::size_t row_, kept_;
  Ort::Session session_;
  Ort::MemoryInfo memory_;
  Ort::RunOptions run_options_;
  // The graph reads a state while it writes a window, so they are two buffers.
  std::vector<std::vector<float>> states_, windows_;
  std::vector<std::int64_t> ids_, positions_, rows_;
  std::int64_t start_ = 0, ran_ = 0;  // tokens of the last pass, whose window is still there
  std::vector<float> logits_;
  Shape one_row_, many_rows_;
  double seconds_ = 0;
};

}  // namespace

std::unique_ptr<Backend> open_state_backend(const Bundle& bundle, const OrtOptions& options) {
  if (options.capacity > bundle.max_positions) {
    refuse(Status::request, "context", std::to_string(options.capacity),
           "at most " + std::to_string(bundle.max_positions) + ", the positions the model has",
           "open with a shorter context, and generate with a restart window for longer texts");
  }
  return std::make_unique<OrtStateBackend>(bundle, options);
}

}  // namespace farthing
