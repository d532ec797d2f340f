#include "ort_backend.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <mutex>
#include <numeric>
#include <optional>
#include <vector>

#include "buffer.h"
#include "compiled.h"
#include "error.h"
#include "ort_draft_chain.h"
#include "ort_library.h"
#include "ort_session.h"
#include "ort_visual_steps.h"
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

Ort::SessionOptions ort_shared_session_options(const OrtOptions& options) {
  static std::once_flag once;
  std::call_once(once, [] {
    try {
      const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
      ort_environment().CreateAndRegisterAllocator(memory, Ort::ArenaCfg(0, -1, -1, -1));
    } catch (const Ort::Exception&) {  // the host, who uses this ONNX Runtime too, has registered one: as good
    }
  });
  Ort::SessionOptions session = ort_session_options(options);
  session.AddConfigEntry("session.use_env_allocators", "1");
  return session;
}

namespace {

// Texts that run together, at most.
constexpr std::int64_t kMostTexts = 256;

class OrtBackend final : public Backend {
 public:
  OrtBackend(const Bundle& bundle, const OrtOptions& options)
      : bundle_(bundle),
        options_(options),
        session_(ort_environment(), bundle.graph.c_str(), ort_session_options(options)),
        memory_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)) {
    check_cache();
    find_changes();
    texts(1);
    branches_ = has_input(tensors::kVisible);
    late_ = has_input(tensors::kLateLen);
    axes_ = position_axes();
    if (bundle.vision && (bundle.vision->mrope != (axes_ == 3) || (bundle.vision->prune_layer > 0 && !late_))) {
      refuse(Status::bundle, "graph " + bundle.graph.string(), "without what vision of the manifest says of it",
             "positions [3,B,S] with mrope_section, late_len with prune_layer", "export the bundle again");
    }
    resize({0, 1, static_cast<std::size_t>(options.chunk), static_cast<std::size_t>(options.chunk), 0});
    if (bundle.drafts > 0) chain_.emplace(bundle, options);
    if (bundle.masks > 0) mask_rows_.resize(static_cast<std::size_t>(options.chunk));
    judges_ = bundle.judge && has_output(tensors::kJudge);
    shapes_.reserve(kShapes);
  }

  std::span<const float> run(const Pass& pass) override {
    const Size size{selected_, 1, pass.ids.size(), pass.logit_rows.size(), static_cast<std::size_t>(pass.mask_rows)};
    resize(size);
    fill(pass, 0, size);
    return execute(size);
  }

  std::span<const float> run_all(std::span<const Pass> passes) override {
    std::size_t rows = 1, wanted = 1;
    for (const Pass& pass : passes) {
      rows = std::max(rows, pass.ids.size());
      wanted = std::max(wanted, pass.logit_rows.size());
      if (pass.mask_rows != 0) throw Error(Status::internal, "a pass with masks over several texts was asked for");
    }
    if (passes.empty() || passes.size() > texts_)
      throw Error(Status::internal, "a pass of too many texts was asked for");
    const Size size{0, passes.size(), rows, wanted, 0};
    resize(size);
    for (std::size_t text = 0; text < passes.size(); ++text) fill(passes[text], text, size);
    return execute(size);
  }

  void texts(std::int64_t count) override {
    if (count < 1 || count > kMostTexts) {
      refuse(Status::request, "batch", std::to_string(count), "1 to " + std::to_string(kMostTexts),
             "give fewer texts at a time");
    }
    shapes_.clear();
    keys_.clear(), values_.clear();
    texts_ = static_cast<std::size_t>(count);
    // A text's short pass is filled up with rows; they need slots, too.
    slots_ = options_.capacity + (count > 1 ? kMostRowsOfEach : 0);
    const auto cache = static_cast<std::size_t>(count * bundle_.kv_heads * slots_ * bundle_.head_dim);
    for (std::int64_t layer = 0; layer < bundle_.layers; ++layer) {
      keys_.emplace_back(cache, bundle_.cache_width);
      values_.emplace_back(cache, bundle_.cache_width);
    }
    past_.assign(texts_, 0);
    late_past_.assign(texts_, 0);
    gap_ = 0;
    for (Change& change : changes_) change.values.assign(texts_ * change.each, 0.0f);
    select(0);
  }
  void select(std::int64_t text) override { selected_ = static_cast<std::size_t>(text); }
  void copy(std::int64_t from, std::int64_t to, std::int64_t length) override {
    const std::size_t width = slot_bytes(), head = static_cast<std::size_t>(slots_) * width;
    for (auto* caches : {&keys_, &values_}) {
      for (Buffer& cache : *caches) {
        const std::span<std::byte> source = text_of(cache, from), target = text_of(cache, to);
        for (std::size_t at = 0; at < source.size(); at += head) {
          std::copy_n(source.data() + at, static_cast<std::size_t>(length) * width, target.data() + at);
        }
      }
    }
  }

  bool judges() const override { return judges_; }
  std::span<const float> judge() override { return judges_ ? own(judge_, 1) : std::span<const float>(); }
  std::int64_t masks() const override { return bundle_.masks; }
  std::int64_t drafts() const override { return bundle_.drafts; }
  std::span<const float> row_latents(std::int64_t row) override {
    const auto width = static_cast<std::size_t>(bundle_.row_latents);
    return own(row_latents_, width).subspan(static_cast<std::size_t>(row) * width, width);
  }
  std::int64_t latent_size() const override { return bundle_.hidden_size; }
  std::span<const float> mask_latents() override { return latents_; }
  void draft_chain(std::int32_t first, std::span<const float> latents, std::span<std::int32_t> ids,
                   std::span<float> chances) override {
    chain_.value().run(first, latents, ids, chances);
  }
  bool branches() const override { return branches_; }
  void reserve(std::int64_t rows) override {
    const auto wanted = static_cast<std::size_t>(std::min(rows, options_.chunk) * bundle_.vocab_size);
    if (logits_.size() >= wanted) return;
    logits_.resize(wanted);
    shapes_.clear();
  }
  void keep(std::int64_t past, std::span<const std::int32_t> rows) override {
    const std::size_t width = slot_bytes(), head = static_cast<std::size_t>(slots_) * width;
    for (auto* caches : {&keys_, &values_}) {
      for (std::size_t layer = 0; layer < caches->size(); ++layer) {
        const std::span<std::byte> own = text_of((*caches)[layer], static_cast<std::int64_t>(selected_));
        const auto slot = static_cast<std::size_t>(past - (behind_pruning(layer) ? gap_ : 0));
        for (std::byte* at = own.data(); at < own.data() + own.size(); at += head) {
          std::byte* to = at + slot * width;
          for (std::size_t t = 0; t < rows.size(); ++t) {
            const auto from = static_cast<std::size_t>(rows[t]);
            if (from != t) std::copy_n(to + from * width, width, to + t * width);
          }
        }
      }
    }
  }
  bool takes_images() const override { return bundle_.vision.has_value(); }
  void perceive(std::span<const WeightChange> given) override {
    for (Change& change : changes_) {
      const auto found =
          std::find_if(given.begin(), given.end(), [&](const WeightChange& g) { return g.name == change.name; });
      if (found == given.end() && given.empty()) {
        std::fill(change.values.begin(), change.values.end(), 0.0f);
      } else if (found == given.end() || found->count != change.each) {
        refuse(Status::bundle, "output " + change.name + " of graph perceive",
               found == given.end() ? "missing" : std::to_string(found->count) + " numbers",
               std::to_string(change.each) + " numbers", "export the bundle again");
      } else {
        std::copy_n(found->values.get(), change.each, change.values.begin());
      }
    }
  }
  std::int64_t run_visual(const VisualPass& pass) override {
    if (pass.rows < 1 || pass.past < 0 || pass.past > options_.capacity - pass.rows || texts_ != 1) {
      throw Error(Status::internal, "a pass of " + std::to_string(pass.rows) + " rows of an image was asked for");
    }
    if (!visual_) visual_.emplace(bundle_, options_);
    const auto start = std::chrono::steady_clock::now();
    const std::int64_t late = visual_->run(pass, keys_, values_, slots_);
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return late;
  }
  std::int64_t capacity() const override { return options_.capacity; }
  std::int64_t vocab_size() const override { return bundle_.vocab_size; }
  std::int64_t chunk() const override { return options_.chunk; }
  std::span<std::byte> keys(std::int64_t layer) override {
    return text_of(keys_[static_cast<std::size_t>(layer)], static_cast<std::int64_t>(selected_));
  }
  std::span<std::byte> values(std::int64_t layer) override {
    return text_of(values_[static_cast<std::size_t>(layer)], static_cast<std::int64_t>(selected_));
  }
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

  // Bytes of the wrong width would be read beyond a buffer: what the manifest says of the cache must be what the graph takes.
  void check_cache() {
    const auto wanted =
        bundle_.cache_width == 1 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    Ort::AllocatorWithDefaultOptions allocator;
    for (std::size_t i = 0; i < session_.GetInputCount(); ++i) {
      const std::string name = session_.GetInputNameAllocated(i, allocator).get();
      if (!name.starts_with(tensors::kPastK) && !name.starts_with(tensors::kPastV)) continue;
      if (session_.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetElementType() == wanted) continue;
      refuse(Status::bundle, "dtype of input " + name + " of graph " + bundle_.graph.string(),
             bundle_.cache_width == 1 ? "not int8" : "not float32", "kv.dtype of the manifest",
             "make the bundle again");
    }
  }

  // Inputs of an image's changes. Zeros are no image.
  void find_changes() {
    Ort::AllocatorWithDefaultOptions allocator;
    for (std::size_t i = 0; i < session_.GetInputCount(); ++i) {
      const std::string name = session_.GetInputNameAllocated(i, allocator).get();
      if (!name.starts_with(tensors::kDelta)) continue;
      Change change{name, session_.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetShape(), 1, {}};
      for (std::size_t axis = 1; axis < change.shape.size(); ++axis) {
        if (change.shape[axis] < 1) throw Error(Status::bundle, "input " + name + " has no fixed size, expected one");
        change.each *= static_cast<std::size_t>(change.shape[axis]);
      }
      changes_.push_back(std::move(change));
    }
  }

  // 3 where a position is a triple (time, row, column), of which text has three times the same.
  std::size_t position_axes() {
    Ort::AllocatorWithDefaultOptions allocator;
    for (std::size_t i = 0; i < session_.GetInputCount(); ++i) {
      if (session_.GetInputNameAllocated(i, allocator).get() != tensors::kPositions) continue;
      return session_.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetShape().size() == 3 ? 3 : 1;
    }
    return 1;
  }

  bool behind_pruning(std::size_t layer) const {
    return bundle_.vision && bundle_.vision->prune_layer > 0 &&
           layer >= static_cast<std::size_t>(bundle_.vision->prune_layer);
  }

  static std::size_t words(std::size_t rows) { return (rows + 63) / 64; }

  // What a pass is made of: `texts` from `first` on, each with `rows` rows, the last `masks` of them mask tokens; `wanted` get logits.
  struct Size {
    std::size_t first = 0, texts = 1, rows = 0, wanted = 0, masks = 0;
    bool operator==(const Size&) const = default;
  };

  // Memory for such a pass.
  void resize(const Size& size) {
    const auto grow = [this](auto& buffer, std::size_t count) {
      if (buffer.size() >= count) return;
      buffer.resize(count);
      shapes_.clear();  // their bindings point into the buffer that moved
    };
    const std::size_t rows = size.texts * size.rows, wanted = size.texts * size.wanted;
    grow(ids_, rows);
    grow(positions_, axes_ * rows);
    grow(rows_, wanted);
    if (branches_) grow(visible_, rows * words(size.rows));
  }

  // Rows of text number `text` of the pass.
  void fill(const Pass& pass, std::size_t text, const Size& size) {
    const std::size_t own = pass.ids.size(), asked = pass.logit_rows.size(), at = text * size.rows;
    if (own == 0 || own > static_cast<std::size_t>(options_.chunk) || pass.positions.size() != own || asked == 0 ||
        asked > own) {
      throw Error(Status::internal, "a pass of " + std::to_string(own) + " rows was asked for");
    }
    if (pass.past < 0 || pass.past > options_.capacity - static_cast<std::int64_t>(own)) {
      refuse(Status::request, "context", std::to_string(pass.past) + " + " + std::to_string(own) + " tokens",
             "at most " + std::to_string(options_.capacity), "open the bundle with a longer context");
    }
    if (pass.past + static_cast<std::int64_t>(size.rows) > slots_) {
      throw Error(Status::internal, "a pass of " + std::to_string(size.rows) + " rows for each text was asked for");
    }
    const auto put = [](auto& to, std::size_t begin, std::size_t count, const auto& values, auto rest) {
      const auto end = std::copy(values.begin(), values.end(), to.begin() + static_cast<std::ptrdiff_t>(begin));
      std::fill(end, to.begin() + static_cast<std::ptrdiff_t>(begin + count), rest);
    };
    put(ids_, at, size.rows, pass.ids, 0);
    for (std::size_t axis = 0; axis < axes_; ++axis) {
      put(positions_, axis * size.texts * size.rows + at, size.rows, pass.positions, pass.positions.back());
    }
    put(rows_, text * size.wanted, size.wanted, pass.logit_rows, pass.logit_rows.back());
    past_[text] = pass.past;
    late_past_[text] = pass.past - pass.gap;
    gap_ = pass.gap;
    fill_visible(pass, at, size.rows);
  }

  void fill_visible(const Pass& pass, std::size_t at, std::size_t rows) {
    const std::size_t own = pass.ids.size(), count = words(rows), given = words(own);
    if (pass.visible.size() != (pass.visible.empty() ? 0 : own * given) || (!branches_ && !pass.visible.empty())) {
      throw Error(Status::internal, "a pass with branches was asked for that the graph does not take");
    }
    if (!branches_) return;
    std::fill_n(visible_.data() + at * count, rows * count, 0);
    for (std::size_t row = 0; row < rows; ++row) {
      std::int64_t* bits = visible_.data() + (at + row) * count;
      if (row < own && !pass.visible.empty()) {
        std::copy_n(pass.visible.data() + row * given, given, bits);
      } else {
        for (std::size_t w = 0; w < row / 64; ++w) bits[w] = -1;
        bits[row / 64] = static_cast<std::int64_t>(~std::uint64_t{0} >> (63 - row % 64));
      }
    }
  }

  std::span<const float> execute(const Size& size) {
    if (size.masks > (bundle_.masks > 0 ? size.rows - size.wanted : 0)) {
      throw Error(Status::internal, "a pass with too many masks was asked for");
    }
    std::iota(mask_rows_.begin(), mask_rows_.begin() + static_cast<std::ptrdiff_t>(size.masks),
              static_cast<std::int64_t>(size.rows - size.masks));
    Shape& shape = bound(size);
    const auto start = std::chrono::steady_clock::now();
    try {
      session_.Run(run_options_, shape.binding);
    } catch (const Ort::Exception& error) {
      throw Error(Status::internal, std::string("ONNX Runtime stopped: ") + error.what());
    }
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    ran_ = size;
    latents_ = {mask_hidden_.data(), size.masks * static_cast<std::size_t>(bundle_.hidden_size)};
    return {logits_.data(), size.texts * size.wanted * static_cast<std::size_t>(bundle_.vocab_size)};
  }

  // Bytes of a slot of one head.
  std::size_t slot_bytes() const { return static_cast<std::size_t>(bundle_.head_dim) * bundle_.cache_width; }
  std::span<std::byte> text_of(Buffer& cache, std::int64_t text) const {
    const std::size_t each = cache.bytes().size() / texts_;
    return cache.bytes().subspan(static_cast<std::size_t>(text) * each, each);
  }
  // The selected text's share of an output of the last pass, of `width` numbers a wanted row.
  std::span<const float> own(const std::vector<float>& output, std::size_t width) const {
    const std::size_t each = ran_.wanted * width;
    return std::span<const float>(output).subspan((selected_ - ran_.first) * each, each);
  }

  // Everything bound for passes of one size: the tensors are views of the same buffers, so binding again is only needed when
  // the size changes. Those of decoding and of drafts come again and again and are kept; of prefill only the last.
  struct Shape {
    Size size;
    Ort::IoBinding binding{nullptr};
    std::vector<Ort::Value> values;
  };
  static constexpr std::size_t kShapes = 80;

  Shape& bound(const Size& size) {
    for (Shape& shape : shapes_) {
      if (shape.size == size) return shape;
    }
    const auto [first, texts, rows, wanted, masks] = size;
    const std::size_t latents = std::max<std::size_t>(masks, 1) * static_cast<std::size_t>(bundle_.hidden_size);
    const auto grow = [this](std::vector<float>& buffer, std::size_t count) {
      if (buffer.size() >= count) return;
      buffer.resize(count);
      shapes_.clear();
    };
    const std::size_t logits = texts * wanted * static_cast<std::size_t>(bundle_.vocab_size);
    const std::size_t row_latents = texts * wanted * static_cast<std::size_t>(bundle_.row_latents);
    if (bundle_.masks > 0) grow(mask_hidden_, latents);
    if (judges_) grow(judge_, texts * wanted);
    grow(logits_, logits);
    grow(row_latents_, row_latents);
    const bool prefill = rows > 1 && wanted == 1;
    auto old = std::find_if(shapes_.begin(), shapes_.end(),
                            [](const Shape& shape) { return shape.size.rows > 1 && shape.size.wanted == 1; });
    if (!prefill) old = shapes_.size() < kShapes ? shapes_.end() : shapes_.begin();
    Shape& shape = old == shapes_.end() ? shapes_.emplace_back() : *old;
    shape = Shape{size, Ort::IoBinding(session_), {}};
    const auto batch = static_cast<std::int64_t>(texts), row_count = static_cast<std::int64_t>(rows),
               out_count = static_cast<std::int64_t>(wanted);
    const std::int64_t all_rows[] = {batch, row_count}, all_wanted[] = {batch, out_count}, each[] = {batch};
    bind(shape, tensors::kInputIds, view(ids_.data(), texts * rows, all_rows));
    const std::int64_t triples[] = {3, batch, row_count};
    bind(shape, tensors::kPositions,
         axes_ == 3 ? view(positions_.data(), 3 * texts * rows, triples)
                    : view(positions_.data(), texts * rows, all_rows));
    bind(shape, tensors::kPastLen, view(past_.data(), texts, each));
    if (late_) bind(shape, tensors::kLateLen, view(late_past_.data(), texts, each));
    bind(shape, tensors::kLogitRows, view(rows_.data(), texts * wanted, all_wanted));
    for (Change& change : changes_) {
      std::vector<std::int64_t> changed = change.shape;
      changed[0] = batch;
      bind(shape, change.name, view(change.values.data() + first * change.each, texts * change.each, changed));
    }
    const std::int64_t seen[] = {batch, row_count, static_cast<std::int64_t>(words(rows))};
    if (branches_) bind(shape, tensors::kVisible, view(visible_.data(), texts * rows * words(rows), seen));
    if (bundle_.row_latents > 0) {
      const std::int64_t latent[] = {batch, out_count, bundle_.row_latents};
      bind_output(shape, tensors::kRowLatents, view(row_latents_.data(), row_latents, latent));
    }
    if (judges_) bind_output(shape, tensors::kJudge, view(judge_.data(), texts * wanted, all_wanted));
    if (bundle_.masks > 0) {
      const std::int64_t masked[] = {static_cast<std::int64_t>(masks)};
      const std::int64_t hidden[] = {batch, static_cast<std::int64_t>(masks), bundle_.hidden_size};
      bind(shape, tensors::kMaskRows, view(mask_rows_.data(), masks, masked));
      const std::size_t count = texts * masks * static_cast<std::size_t>(bundle_.hidden_size);
      bind_output(shape, tensors::kMaskHidden, view(mask_hidden_.data(), count, hidden));
    }
    const std::int64_t out[] = {batch, out_count, bundle_.vocab_size};
    bind_output(shape, tensors::kLogits, view(logits_.data(), logits, out));
    const std::int64_t cache[] = {batch, bundle_.kv_heads, slots_, bundle_.head_dim};
    for (std::size_t layer = 0; layer < keys_.size(); ++layer) {
      const std::string number = std::to_string(layer);
      const auto in_place = [&](const std::string& past, const std::string& present, Buffer& buffer) {
        const std::size_t one = buffer.bytes().size() / texts_;
        const std::span<std::byte> part = buffer.bytes().subspan(first * one, texts * one);
        bind(shape, past + number, cache_view(part, cache));
        bind_output(shape, present + number, cache_view(part, cache));
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
  Ort::Value cache_view(std::span<std::byte> part, std::span<const std::int64_t> dims) {
    const auto type =
        bundle_.cache_width == 1 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    return Ort::Value::CreateTensor(memory_, part.data(), part.size(), dims.data(), dims.size(), type);
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
  std::vector<std::int64_t> past_, late_past_;  // of each text of the pass
  std::size_t axes_ = 1;                        // numbers of a position
  bool late_ = false;                           // the graph takes late_len
  std::int64_t gap_ = 0;                        // of the last pass
  std::optional<OrtVisualSteps> visual_;
  struct Change {
    std::string name;
    std::vector<std::int64_t> shape;
    std::size_t each = 1;       // numbers of a text
    std::vector<float> values;  // of all texts
  };
  std::vector<Change> changes_;
  std::size_t texts_ = 1, selected_ = 0;
  std::int64_t slots_ = 0;  // of each text's cache
  bool branches_ = false;
  Size ran_;
  std::vector<float> logits_;
  std::vector<Shape> shapes_;
  std::optional<OrtDraftChain> chain_;
  std::vector<std::int64_t> mask_rows_;
  std::vector<float> mask_hidden_, row_latents_, judge_;
  std::span<const float> latents_;
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
  if (bundle.weights == "nvfp4") {
    refuse(Status::request, "weights of " + bundle.path.string(), "nvfp4, for which ONNX Runtime has no kernel",
           "a format that it computes with",
           "farthing compile --target tensorrt or tensorrt-rtx; or quantize with --weights fp8 or int4");
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
