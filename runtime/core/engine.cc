#include "engine.h"

#include <algorithm>
#include <chrono>
#include <ctime>

#include "error.h"
#include "tensorrt_backend.h"

namespace farthing {
namespace {

constexpr std::int64_t kDefaultCapacity = 2048;

EngineOptions completed(EngineOptions options, const Bundle& bundle) {
  if (options.backend.capacity == 0) options.backend.capacity = std::min(bundle.max_positions, kDefaultCapacity);
  options.backend.chunk = std::min(options.backend.chunk, options.backend.capacity);
  return options;
}

std::unique_ptr<Backend> open_backend(const Bundle& bundle, const EngineOptions& options) {
  if (options.tensorrt) {
    return open_tensorrt_backend(bundle, {"", "", "", options.backend.capacity, options.cuda_graphs, options.hashes});
  }
  OrtOptions ort = completed(options, bundle).backend;
  ort.hashes = options.hashes;
  return open_ort_backend(bundle, ort);
}

double wall() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double cpu() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
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
    : bundle_(open_bundle(path, options.hashes)),
      backend_(open_backend(bundle_, options)),
      sampler_(bundle_.vocab_size) {
  tokens_.reserve(static_cast<std::size_t>(capacity()));
  positions_.resize(static_cast<std::size_t>(backend_->chunk()));
  logit_rows_.resize(positions_.size());
}

void Engine::reset() { rewind(0); }

void Engine::rewind(std::int64_t wanted) {
  if (wanted < 0 || wanted > length()) {
    refuse(Status::request, "length to rewind to", std::to_string(wanted), "0 to " + std::to_string(length()),
           "rewind to a length that was reached");
  }
  if (wanted == length()) return;
  const std::int64_t first = backend_->rewind(wanted);
  tokens_.resize(static_cast<std::size_t>(wanted));
  if (first < wanted) {
    const std::vector<std::int32_t> again(tokens_.begin() + first, tokens_.end());
    tokens_.resize(static_cast<std::size_t>(first));
    for (std::span<const std::int32_t> ids = again; !ids.empty();) {
      const auto rows = std::min(ids.size(), positions_.size());
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

void Engine::prefill(std::span<const std::int32_t> ids) {
  cancelled_.store(false);
  append(ids);
}

void Engine::check_room(std::span<const std::int32_t> ids) const {
  check_prompt(ids);
  if (ids.size() > static_cast<std::size_t>(capacity() - length())) {
    refuse(Status::request, "prompt", std::to_string(length()) + " + " + std::to_string(ids.size()) + " tokens",
           "at most " + std::to_string(capacity()), "shorten it, or open the bundle with a longer context");
  }
}

std::span<const float> Engine::pass(std::span<const std::int32_t> ids, std::size_t wanted) {
  const std::size_t rows = ids.size(), vocab = static_cast<std::size_t>(backend_->vocab_size());
  for (std::size_t i = 0; i < rows; ++i) positions_[i] = length() + static_cast<std::int64_t>(i);
  for (std::size_t i = 0; i < wanted; ++i) logit_rows_[i] = static_cast<std::int64_t>(rows - wanted + i);
  logits_ = {};
  const auto all = backend_->run({ids, {positions_.data(), rows}, length(), {logit_rows_.data(), wanted}});
  logits_ = all.last(vocab);
  tokens_.insert(tokens_.end(), ids.begin(), ids.end());
  ++passes_;
  rows_ += static_cast<std::int64_t>(rows);
  return all;
}

std::span<const float> Engine::extend(std::span<const std::int32_t> ids) {
  check_room(ids);
  if (ids.size() > positions_.size()) {
    refuse(Status::request, "rows to extend by", std::to_string(ids.size()),
           "at most " + std::to_string(positions_.size()), "use prefill, or several calls");
  }
  cancelled_.store(false);
  return pass(ids, ids.size());
}

void Engine::append(std::span<const std::int32_t> ids) {
  check_room(ids);
  while (!ids.empty()) {
    const auto rows = std::min(ids.size(), positions_.size());
    pass(ids.first(rows), 1);
    ids = ids.subspan(rows);
    if (cancelled_.load() && !ids.empty()) {
      logits_ = {};
      return;
    }
  }
}

void Engine::restart(std::int32_t id, std::int64_t window) {
  // `id` is the newest token, which has not run yet.
  std::vector<std::int32_t> kept(tokens_.end() - (window - 1), tokens_.end());
  kept.push_back(id);
  reset();
  append(kept);
}

std::span<const float> Engine::logits() const {
  if (logits_.empty()) {
    refuse(Status::request, "logits", "not computed", "a prefill before", "call prefill() after a reset or rewind");
  }
  return logits_;
}

Generation Engine::generate(std::span<const std::int32_t> prompt, const GenerateOptions& options,
                            const std::function<bool(std::int32_t)>& on_token) {
  check(options.sampler);
  check_prompt(prompt);
  if (options.max_new_tokens < 1) {
    refuse(Status::request, "max_new_tokens", std::to_string(options.max_new_tokens), "1 or more",
           "choose another value");
  }
  if (options.restart_window < 0 || options.restart_window >= capacity()) {
    if (options.restart_window != 0) {
      refuse(Status::request, "restart_window", std::to_string(options.restart_window),
             "0 (off) to " + std::to_string(capacity() - 1), "keep fewer tokens than the context has");
    }
  }
  cancelled_.store(false);
  Generation result;
  if (options.reuse_prefix) {
    const auto common =
        std::mismatch(tokens_.begin(), tokens_.end(), prompt.begin(), prompt.end()).second - prompt.begin();
    // At least one token is run again: its logits are needed.
    const auto kept = std::min<std::ptrdiff_t>(common, static_cast<std::ptrdiff_t>(prompt.size()) - 1);
    rewind(kept);
    prompt = prompt.subspan(static_cast<std::size_t>(kept));
  } else if (!options.resume) {
    reset();
  }
  const bool penalise = options.sampler.repetition_penalty != 1;
  sampler_.forget();
  result.ids.reserve(static_cast<std::size_t>(std::min(options.max_new_tokens, capacity())));
  const std::int64_t passes = passes_, rows = rows_;
  const double engine = backend_->engine_seconds(), start = wall(), cpu_start = cpu();

  append(prompt);
  Stats& stats = result.stats;
  stats.prompt_tokens = static_cast<std::int64_t>(prompt.size());
  const double prefilled = wall(), cpu_prefilled = cpu();
  if (penalise) {
    for (const std::int32_t id : tokens_) sampler_.see(id);
  }
  while (true) {
    if (cancelled_.load()) {
      result.reason = StopReason::cancelled;
      break;
    }
    const std::int32_t id = sampler_.next(logits_, options.sampler, result.ids.size());
    if (result.ids.empty()) stats.first_token_seconds = wall() - start;
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end()) {
      result.reason = StopReason::eos;
      result.stop_id = id;
      break;
    }
    result.ids.push_back(id);
    if (on_token && !on_token(id)) {
      result.reason = StopReason::callback;
      break;
    }
    if (static_cast<std::int64_t>(result.ids.size()) == options.max_new_tokens) break;
    if (length() == capacity() && options.restart_window == 0) {
      result.reason = StopReason::context;
      break;
    }
    if (penalise) sampler_.see(id);
    if (length() < capacity()) {
      append({&id, 1});
    } else {
      restart(id, options.restart_window);
      ++stats.restarts;
    }
  }
  stats.new_tokens = static_cast<std::int64_t>(result.ids.size());
  stats.passes = passes_ - passes;
  stats.rows = rows_ - rows;
  stats.prefill_seconds = prefilled - start;
  stats.prefill_cpu_seconds = cpu_prefilled - cpu_start;
  stats.decode_seconds = wall() - prefilled;
  stats.decode_cpu_seconds = cpu() - cpu_prefilled;
  stats.model_seconds = backend_->engine_seconds() - engine;
  return result;
}

}  // namespace farthing
