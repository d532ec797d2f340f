#include "engine.h"

#include <algorithm>
#include <limits>

#include "error.h"
#include "speculation/factory.h"
#include "speculation/judge.h"
#include "speculation/model_drafter.h"
#include "tensorrt_backend.h"
#include "vision/vision_encoder.h"

namespace farthing {
namespace {

constexpr std::int64_t kDefaultCapacity = 2048;

EngineOptions completed(EngineOptions options, const Bundle& bundle) {
  if (options.backend.capacity == 0) options.backend.capacity = std::min(bundle.max_positions, kDefaultCapacity);
  options.backend.chunk = std::min(options.backend.chunk, options.backend.capacity);
  return options;
}

Bundle opened(const std::filesystem::path& path, const EngineOptions& options) {
  Bundle bundle = open_bundle(path, options.hashes);
  if (options.text_only) bundle.vision.reset();
  return bundle;
}

std::unique_ptr<Backend> open_backend(const Bundle& bundle, const EngineOptions& options) {
  if (options.tensorrt) {
    if (bundle.vision && (bundle.vision->mrope || bundle.vision->prune_layer > 0 || bundle.vision->perceive)) {
      refuse(Status::request, "backend of " + bundle.path.string(), "TensorRT",
             "ONNX Runtime for a model with M-RoPE, pruning inside the decoder or images as weights",
             "open it without tensorrt");
    }
    return open_tensorrt_backend(bundle, {"", "", "", options.backend.capacity, options.cuda_graphs, options.hashes});
  }
  OrtOptions ort = completed(options, bundle).backend;
  ort.hashes = options.hashes;
  return open_ort_backend(bundle, ort);
}

// Rows that are measured: dense where drafts are, since kernels work in strips and costs go up in steps.
const std::vector<std::int64_t> kRows = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 24, 32, 48, 64};
const std::vector<std::int64_t> kQuickRows = {1, 2, 4, 8, 16};

std::vector<std::int64_t> up_to(std::int64_t most, std::vector<std::int64_t> rows) {
  std::erase_if(rows, [most](std::int64_t r) { return r > std::max<std::int64_t>(most, 1); });
  return rows;
}

// `count` past lengths from an empty to a filled cache, each with room for a pass behind it.
std::vector<std::int64_t> past_lengths(std::int64_t capacity, int count) {
  std::vector<std::int64_t> past = {0};
  for (int i = 1; i < count; ++i) {
    const std::int64_t at = (capacity - 64) * i / (count - 1) / 2;
    if (at > past.back()) past.push_back(at);
  }
  return past;
}

}  // namespace

const char* name(StopReason reason) {
  switch (reason) {
    case StopReason::eos:
      return "eos";
    case StopReason::callback:
      return "callback";
    case StopReason::context:
      return "context";
    case StopReason::cancelled:
      return "cancelled";
    default:
      return "length";
  }
}

Engine::Engine(const std::filesystem::path& path, const EngineOptions& options)
    : bundle_(opened(path, options)),
      cost_key_(cost_key(bundle_, options.backend.threads, !options.backend.ops_library.empty())),
      options_(options),
      backend_(open_backend(bundle_, options)),
      sampler_(bundle_.vocab_size) {
  tokens_.reserve(static_cast<std::size_t>(capacity()));
  rows_of_pass_.reserve(backend_->chunk(), 0);
  draft(options.draft);
}

Engine::~Engine() = default;

void Engine::reset() { rewind(0); }

void Engine::rewind(std::int64_t wanted) {
  if (wanted < 0 || wanted > length()) {
    refuse(Status::request, "length to rewind to", std::to_string(wanted), "0 to " + std::to_string(length()),
           "rewind to a length that was reached");
  }
  if (wanted == 0) forget_image();
  if (wanted == length()) return;
  if (perceives() && wanted > 0 && !spans_.empty() && wanted <= spans_.all().front().begin) {
    refuse(Status::request, "length to rewind to", std::to_string(wanted) + ", before the image",
           "0, or above " + std::to_string(spans_.all().front().begin),
           "go back to the beginning: the image changed what is before it, too");
  }
  if (const ImageSpan* image = spans_.at(wanted); image && image->begin < wanted) {
    refuse(Status::request, "length to rewind to", std::to_string(wanted) + ", inside an image",
           "at most " + std::to_string(image->begin) + ", where it begins, or at least " + std::to_string(image->end()),
           "rewind to one of these");
  }
  wanted == 0 ? spans_.clear() : spans_.cut(wanted);
  const std::int64_t first = backend_->rewind(wanted);
  tokens_.resize(static_cast<std::size_t>(wanted));
  if (first < wanted) {
    const std::vector<std::int32_t> again(tokens_.begin() + first, tokens_.end());
    tokens_.resize(static_cast<std::size_t>(first));
    for (std::span<const std::int32_t> ids = again; !ids.empty();) {
      const auto rows = std::min(ids.size(), static_cast<std::size_t>(chunk()));
      pass(ids.first(rows), 1);
      ids = ids.subspan(rows);
    }
  }
  logits_ = {};
}

void Engine::check_prompt(std::span<const std::int32_t> ids) const {
  if (ids.empty()) refuse(Status::request, "prompt", "empty", "at least one token", "give a prompt");
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= backend_->vocab_size()) {
      refuse(Status::request, "token id", std::to_string(id), "0 to " + std::to_string(backend_->vocab_size() - 1),
             "use this bundle's tokenizer");
    }
  }
}

std::span<const float> Engine::pass(std::span<const std::int32_t> ids, std::size_t wanted) {
  const std::size_t rows = ids.size();
  auto& positions = rows_of_pass_.positions;
  auto& logit_rows = rows_of_pass_.logit_rows;
  const std::int64_t position = length() + spans_.shift();
  for (std::size_t i = 0; i < rows; ++i) positions[i] = position + static_cast<std::int64_t>(i);
  for (std::size_t i = 0; i < wanted; ++i) logit_rows[i] = static_cast<std::int64_t>(rows - wanted + i);
  const auto all = run({ids, {positions.data(), rows}, length(), {logit_rows.data(), wanted}, {}, 0, spans_.gap()});
  tokens_.insert(tokens_.end(), ids.begin(), ids.end());
  return all;
}

std::span<const float> Engine::run(const Pass& pass) {
  logits_ = {};
  const auto all = backend_->run(pass);
  logits_ = all.last(static_cast<std::size_t>(backend_->vocab_size()));
  ++passes_;
  rows_ += static_cast<std::int64_t>(pass.ids.size());
  return all;
}

std::span<const float> Engine::extend(std::span<const std::int32_t> ids) {
  check_prompt(ids);
  check_images(ids, {});
  check_room(length(), static_cast<std::int64_t>(ids.size()));
  if (ids.size() > static_cast<std::size_t>(chunk())) {
    refuse(Status::request, "rows to extend by", std::to_string(ids.size()), "at most " + std::to_string(chunk()),
           "use prefill, or several calls");
  }
  cancelled_.store(false);
  return pass(ids, ids.size());
}

void Engine::restart(std::int32_t id, std::int64_t window) {
  // `id` is the newest token, which has not run yet.
  std::vector<std::int32_t> kept(tokens_.end() - (window - 1), tokens_.end());
  kept.push_back(id);
  reset();
  append_text(kept);
}

std::span<const float> Engine::logits() const {
  if (logits_.empty()) {
    refuse(Status::request, "logits", "not computed", "a prefill before", "call prefill() after a reset or rewind");
  }
  return logits_;
}

void Engine::draft(const DraftOptions& options) {
  std::string name = options.name;
  auto cost = name == "none" ? std::nullopt : load_cost(bundle_, cost_key_);
  if (name == "tuned") name = cost ? "auto" : "none";
  if (name == "none") {
    another_ = {};
    speculation_.reset();
    return;
  }
  std::shared_ptr<ModelDrafter> small;
  if (name == "model") {
    if (!options.table.empty()) {
      refuse(Status::request, "draft table", "given for 'model'", "aded, or auto where it takes aded",
             "leave the table out, or choose aded");
    }
    small = open_small(options.bundle);
  }
  auto drafter = small ? small : make_drafter(name, bundle_, *backend_, options.table);
  if (!cost && !options.how.always) {
    cost = measure(up_to(most_measured(), kQuickRows), past_lengths(capacity(), 2), 2);
  }
  if (small && cost && cost->known() && !options.how.always) small->stop_below(small->seconds() / cost->seconds(1, 0));
  const PassCost known = cost.value_or(PassCost());
  speculate(std::move(drafter), nullptr, options.how, known);
  // Each of several texts can have a drafter of its own that guesses from the text alone.
  if (!make_text_drafter(name, 1)) return;
  const auto table = options.table.empty() ? nullptr : open_table(bundle_, options.table);
  another_ = [this, name, known, table, how = options.how]() mutable {
    how.nodes = std::min<std::int64_t>(how.nodes, kMostRowsOfEach - 1);
    return speculation_of(make_text_drafter(name, capacity(), table), nullptr, how, known);
  };
}

std::shared_ptr<ModelDrafter> Engine::open_small(const std::string& path) const {
  if (path.empty()) {
    refuse(Status::request, "draft bundle", "not given", "the folder of a small model's bundle",
           "give --draft-bundle, or choose another draft");
  }
  EngineOptions small;
  small.backend = {options_.backend.onnxruntime, options_.backend.ops_library, options_.backend.threads};
  small.hashes = options_.hashes;
  return std::make_shared<ModelDrafter>(bundle_, capacity(), path, small);
}

std::filesystem::path Engine::tune() {
  return save_cost(bundle_, cost_key_, measure(up_to(most_measured(), kRows), past_lengths(capacity(), 3), 3));
}

void Engine::speculate(std::shared_ptr<Drafter> drafter, std::shared_ptr<Acceptor> acceptor,
                       const SpeculationOptions& options, PassCost cost) {
  another_ = {};
  if (!drafter) {
    speculation_.reset();
    return;
  }
  speculation_ = speculation_of(std::move(drafter), std::move(acceptor), options, std::move(cost));
  backend_->reserve(options.nodes + 1);
  rows_of_pass_.reserve(options.nodes + 1, backend_->masks());
}

std::unique_ptr<Speculation> Engine::speculation_of(std::shared_ptr<Drafter> drafter,
                                                    std::shared_ptr<Acceptor> acceptor,
                                                    const SpeculationOptions& options, PassCost cost) const {
  if (!acceptor && options.judge && backend_->judges()) {
    JudgeRule rule = bundle_.judge.value();
    rule.delta = options.delta.value_or(rule.delta);
    acceptor = std::make_shared<JudgeAcceptor>(std::move(rule));
  }
  if (!acceptor) acceptor = std::make_shared<ExactAcceptor>();
  return std::make_unique<Speculation>(std::move(drafter), std::move(acceptor), options, std::move(cost),
                                       backend_->chunk(), backend_->branches(), backend_->masks());
}

PassCost Engine::measure(std::vector<std::int64_t> rows, std::vector<std::int64_t> past, int rounds) {
  reset();
  std::vector<double> seconds(rows.size() * past.size(), std::numeric_limits<double>::infinity());
  const std::vector<std::int32_t> ids(static_cast<std::size_t>(chunk()), 0);
  auto& positions = rows_of_pass_.positions;
  auto& logit_rows = rows_of_pass_.logit_rows;
  for (int round = -1; round < rounds; ++round) {  // the first is not counted: it allocates
    for (std::size_t p = 0; p < past.size(); ++p) {
      for (std::size_t r = 0; r < rows.size(); ++r) {
        const auto count = static_cast<std::size_t>(rows[r]);
        if (count < 1 || count > ids.size() || past[p] < 0 || past[p] + rows[r] > capacity()) {
          refuse(Status::request, "pass to measure", std::to_string(rows[r]) + " rows after " + std::to_string(past[p]),
                 "at most " + std::to_string(ids.size()) + " rows in a context of " + std::to_string(capacity()),
                 "measure smaller passes, or open the bundle with a longer context");
        }
        for (std::size_t i = 0; i < count; ++i) {
          positions[i] = past[p] + static_cast<std::int64_t>(i);
          logit_rows[i] = static_cast<std::int64_t>(i);
        }
        const double before = backend_->engine_seconds();
        // The cache may hold anything: what a pass costs does not depend on it.
        backend_->run({{ids.data(), count}, {positions.data(), count}, past[p], {logit_rows.data(), count}, {}, 0, 0});
        double& least = seconds[p * rows.size() + r];
        if (round >= 0) least = std::min(least, backend_->engine_seconds() - before);
      }
    }
  }
  backend_->rewind(0);
  return {std::move(rows), std::move(past), std::move(seconds)};
}

}  // namespace farthing
