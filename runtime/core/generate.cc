// The one decode loop: draw a token, run it, together with what is guessed to follow, and go on where the guesses end.
#include <algorithm>

#include "clock.h"
#include "engine.h"
#include "error.h"

namespace farthing {
namespace {

// Says tokens one by one, and knows when that has to end.
class Speech {
 public:
  Speech(const GenerateOptions& options, const std::function<bool(std::int32_t)>& on_token, Generation& result)
      : options_(options), on_token_(on_token), result_(result) {}

  bool stops(std::int32_t id) const {
    return std::find(options_.stop_ids.begin(), options_.stop_ids.end(), id) != options_.stop_ids.end();
  }
  // False: the text ends here.
  bool say(std::int32_t id) {
    if (stops(id)) {
      result_.stop_id = id;
      return end(StopReason::eos);
    }
    result_.ids.push_back(id);
    if (on_token_ && !on_token_(id)) return end(StopReason::callback);
    return left() > 0 || end(StopReason::length);
  }
  bool end(StopReason reason) {
    result_.reason = reason;
    return false;
  }
  // Tokens that may still be said.
  std::int64_t left() const { return options_.max_new_tokens - static_cast<std::int64_t>(result_.ids.size()); }

 private:
  const GenerateOptions& options_;
  const std::function<bool(std::int32_t)>& on_token_;
  Generation& result_;
};

}  // namespace

void Engine::check_generation(std::span<const std::int32_t> prompt, const GenerateOptions& options) const {
  check(options.sampler);
  check_prompt(prompt);
  if (options.max_new_tokens < 1) {
    refuse(Status::request, "max_new_tokens", std::to_string(options.max_new_tokens), "1 or more",
           "choose another value");
  }
  if (options.restart_window != 0 && (options.restart_window < 0 || options.restart_window >= capacity())) {
    refuse(Status::request, "restart_window", std::to_string(options.restart_window),
           "0 (off) to " + std::to_string(capacity() - 1), "keep fewer tokens than the context has");
  }
}

// What of the prompt is not in the cache, after the cache was cut to what it shares with it.
std::span<const std::int32_t> Engine::unseen(std::span<const std::int32_t> prompt, const GenerateOptions& options) {
  if (options.reuse_prefix) {
    const auto common =
        std::mismatch(tokens_.begin(), tokens_.end(), prompt.begin(), prompt.end()).second - prompt.begin();
    // At least one token is run again: its logits are needed.
    const auto kept = std::min<std::ptrdiff_t>(common, static_cast<std::ptrdiff_t>(prompt.size()) - 1);
    rewind(kept);
    return prompt.subspan(static_cast<std::size_t>(kept));
  }
  if (!options.resume) reset();
  return prompt;
}

std::span<const float> Engine::verify(const Plan& plan) {
  const std::size_t rows = plan.rows(), all = plan.all_rows(), words = (all + 63) / 64;
  const auto masks = static_cast<std::size_t>(plan.masks());
  const std::int64_t base = length();
  row_ids_.assign(plan.ids().begin(), plan.ids().end());
  for (std::size_t i = 0; i < rows; ++i) {
    positions_[i] = base + plan.depths()[i];
    logit_rows_[i] = static_cast<std::int64_t>(i);
  }
  visible_.clear();
  if (!plan.chain() || all > rows) {
    visible_.assign(all * words, 0);
    const auto see = [&](std::size_t row, std::size_t before) {  // what `before` sees, and itself
      std::int64_t* bits = visible_.data() + row * words;
      if (before != row) std::copy_n(visible_.data() + before * words, words, bits);
      bits[row / 64] |= static_cast<std::int64_t>(std::uint64_t{1} << (row % 64));
    };
    for (std::size_t i = 0; i < rows; ++i) see(i, i > 0 ? static_cast<std::size_t>(plan.parents()[i]) : 0);
    std::size_t row = rows;
    for (const std::int32_t real : plan.masked_rows()) {
      for (std::size_t i = 0; i < masks; ++i, ++row) {
        row_ids_.push_back(static_cast<std::int32_t>(backend_->vocab_size() + static_cast<std::int64_t>(i)));
        positions_[row] = positions_[static_cast<std::size_t>(real)] + 1 + static_cast<std::int64_t>(i);
        see(row, i == 0 ? static_cast<std::size_t>(real) : row - 1);
      }
    }
  }
  return run({row_ids_,
              {positions_.data(), all},
              base,
              {logit_rows_.data(), rows},
              visible_,
              static_cast<std::int64_t>(all - rows)});
}

void Engine::commit(std::int64_t base, std::span<const std::int32_t> path) {
  const auto begin = static_cast<std::size_t>(base);
  std::size_t kept = 1;
  bool moved = false;
  for (const std::int32_t row : path) {
    moved |= static_cast<std::size_t>(row) != kept;
    tokens_[begin + kept++] = tokens_[begin + static_cast<std::size_t>(row)];
  }
  const bool all = begin + kept == tokens_.size();
  tokens_.resize(begin + kept);
  if (moved) {
    kept_rows_.assign(1, 0);
    kept_rows_.insert(kept_rows_.end(), path.begin(), path.end());
    backend_->keep(base, kept_rows_);
  } else if (!all) {
    backend_->rewind(length());
  }
}

Generation Engine::generate(std::span<const std::int32_t> prompt, const GenerateOptions& options,
                            const std::function<bool(std::int32_t)>& on_token) {
  check_generation(prompt, options);
  cancelled_.store(false);
  prompt = unseen(prompt, options);
  Generation result;
  result.ids.reserve(static_cast<std::size_t>(std::min(options.max_new_tokens, capacity())));
  Stats& stats = result.stats;
  const std::int64_t passes = passes_, rows = rows_;
  const double engine = backend_->engine_seconds(), start = wall_seconds(), cpu_start = cpu_seconds();

  append(prompt);
  stats.prompt_tokens = static_cast<std::int64_t>(prompt.size());
  const double prefilled = wall_seconds(), cpu_prefilled = cpu_seconds();
  const bool penalise = options.sampler.repetition_penalty != 1;
  sampler_.forget();
  if (penalise) {
    for (const std::int32_t id : tokens_) sampler_.see(id);
  }
  Speculation* const guessing = options.speculate ? speculation_.get() : nullptr;
  if (guessing) guessing->begin(tokens_);

  Speech speech(options, on_token, result);
  std::size_t shown = 0;             // ids that the drafter has seen
  std::optional<std::int32_t> next;  // drawn from logits_ already
  while (true) {
    if (cancelled_.load()) {
      speech.end(StopReason::cancelled);
      break;
    }
    const std::int32_t id = next ? *next : sampler_.next(logits_, options.sampler, result.ids.size());
    next.reset();
    if (result.ids.empty()) stats.first_token_seconds = wall_seconds() - start;
    if (!speech.say(id)) break;
    if (penalise) sampler_.see(id);
    if (length() == capacity()) {
      if (options.restart_window == 0) {
        speech.end(StopReason::context);
        break;
      }
      restart(id, options.restart_window);
      ++stats.restarts;
      continue;
    }
    if (!guessing) {
      pass({&id, 1}, 1);
      continue;
    }
    const std::int64_t base = length(), slots = capacity() - base;
    const Plan& plan =
        guessing->plan(std::span(result.ids).subspan(shown), base, std::min(speech.left(), slots) - 1, slots);
    shown = result.ids.size();
    const auto all = verify(plan);
    const Verification found{plan, all, backend_->judge(), backend_->vocab_size()};
    path_.clear();
    bool more = true;
    std::int32_t row = 0;
    std::int64_t judged = 0;
    while (true) {
      logits_ = found.row(row);
      if (plan.rows() == 1) break;  // drawn at the top of the loop
      next = sampler_.next(logits_, options.sampler, result.ids.size());
      const std::int32_t child = guessing->accept(found, row, *next);
      if (child < 0) break;
      const std::int32_t said = plan.ids()[static_cast<std::size_t>(child)];
      const bool own = said == *next;
      if (!own && speech.stops(said)) break;  // a text ends by the model's own word alone
      if (!(more = speech.say(said))) break;
      judged += own ? 0 : 1;
      if (penalise) sampler_.see(said);
      path_.push_back(child);
      row = child;
    }
    commit(base, path_);
    guessing->ran(path_, judged, backend_->masks() > 0 ? backend_->mask_latents() : backend_->row_latents(row));
    if (!more) break;
  }
  if (guessing) stats.speculation = guessing->stats();
  stats.new_tokens = static_cast<std::int64_t>(result.ids.size());
  stats.passes = passes_ - passes;
  stats.rows = rows_ - rows;
  stats.prefill_seconds = prefilled - start;
  stats.prefill_cpu_seconds = cpu_prefilled - cpu_start;
  stats.decode_seconds = wall_seconds() - prefilled;
  stats.decode_cpu_seconds = cpu_seconds() - cpu_prefilled;
  stats.model_seconds = backend_->engine_seconds() - engine;
  return result;
}

}  // namespace farthing
