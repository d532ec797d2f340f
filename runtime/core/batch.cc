// Several texts in one pass: the weights are read once for all of them. Each text is decoded as it would be alone.
#include <algorithm>

#include "clock.h"
#include "decoding.h"
#include "engine.h"
#include "error.h"

namespace farthing {
namespace {

// A text under way. Its place among the active ones is its cache in the backend.
struct Text {
  std::size_t index = 0;  // of its prompt
  std::vector<std::int32_t> tokens;
  PassRows rows;
  Sampler sampler;
  std::unique_ptr<Speculation> guessing;
  std::function<bool(std::int32_t)> on_token;
  std::unique_ptr<Decoding> decoding;
  std::vector<float> logits;  // of the last row that counts
  double start = 0, prefilled = 0, cpu_start = 0, cpu_prefilled = 0, model_start = 0;

  explicit Text(std::int64_t vocab) : sampler(vocab), logits(static_cast<std::size_t>(vocab)) {}
};

}  // namespace

void Engine::check_batch(std::span<const std::vector<std::int32_t>> prompts, std::span<const GenerateOptions> options,
                         std::int64_t batch) const {
  if (batch < 1) refuse(Status::request, "batch", std::to_string(batch), "1 or more", "choose another number");
  if (prompts.empty()) refuse(Status::request, "prompts", "none", "at least one", "give a prompt");
  if (options.size() != 1 && options.size() != prompts.size()) {
    refuse(Status::request, "options", std::to_string(options.size()) + " of them",
           "1, or " + std::to_string(prompts.size()) + " for as many prompts", "give one for all or one for each");
  }
  for (const GenerateOptions& o : options) {
    if (o.reuse_prefix || o.resume || o.restart_window != 0) {
      refuse(Status::request, "reuse_prefix, continuing or restart_window", "asked for",
             "off for several texts together", "generate these one by one");
    }
    if (o.speculate && speculation_ && !another_) {
      refuse(Status::request, "draft",
             std::string("'") + speculation_->drafter().name() + "' for several texts together",
             "none, lookup, aded, or auto of these", "choose one of them, or plain decoding");
    }
  }
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    check_generation(prompts[i], options[options.size() == 1 ? 0 : i]);
    check_images(prompts[i], {});
    if (static_cast<std::int64_t>(prompts[i].size()) > capacity()) {
      refuse(Status::request, "prompt " + std::to_string(i), std::to_string(prompts[i].size()) + " tokens",
             "at most " + std::to_string(capacity()), "shorten it, or open the bundle with a longer context");
    }
  }
}

std::vector<Generation> Engine::generate_all(std::span<const std::vector<std::int32_t>> prompts,
                                             std::span<const GenerateOptions> options, std::int64_t batch,
                                             const std::function<bool(std::size_t, std::int32_t)>& on_token) {
  check_batch(prompts, options, batch);
  cancelled_.store(false);
  reset();
  batch = std::min(batch, static_cast<std::int64_t>(prompts.size()));
  backend_->texts(batch);
  // Whatever happens, the engine is one empty text again.
  const struct Restore {
    Engine& engine;
    ~Restore() {
      engine.tokens_.clear();
      engine.logits_ = {};
      try {
        engine.backend_->texts(1);
      } catch (const std::exception&) {  // no memory for it: the first text's cache of those there serves as well
        engine.backend_->select(0);
      }
    }
  } restore{*this};

  std::vector<Generation> results(prompts.size());
  std::vector<std::unique_ptr<Text>> active, idle;
  std::vector<Pass> passes;
  std::size_t next = 0;

  const auto begin = [&] {
    const auto place = static_cast<std::int64_t>(active.size());
    std::unique_ptr<Text> text;
    if (idle.empty()) {
      text = std::make_unique<Text>(backend_->vocab_size());
      text->tokens.reserve(static_cast<std::size_t>(capacity()));
      if (another_) text->guessing = another_();
      text->rows.reserve(text->guessing ? speculation_->most_rows() : 1, 0);
    } else {
      text = std::move(idle.back());
      idle.pop_back();
    }
    const std::size_t index = text->index = next++;
    const GenerateOptions& how = options[options.size() == 1 ? 0 : index];
    text->start = wall_seconds(), text->cpu_start = cpu_seconds(), text->model_start = backend_->engine_seconds();
    const std::int64_t before = passes_, rows_before = rows_;
    backend_->select(place);
    tokens_.clear();
    append_text(prompts[index]);
    text->tokens.assign(tokens_.begin(), tokens_.end());
    if (!logits_.empty()) std::copy(logits_.begin(), logits_.end(), text->logits.begin());
    text->prefilled = wall_seconds(), text->cpu_prefilled = cpu_seconds();
    text->on_token = on_token ? [&on_token, index](std::int32_t id) { return on_token(index, id); }
                              : std::function<bool(std::int32_t)>();
    text->decoding = std::make_unique<Decoding>(text->tokens, text->rows, text->sampler,
                                                how.speculate ? text->guessing.get() : nullptr, how, text->on_token);
    Stats& stats = text->decoding->result().stats;
    stats.passes = passes_ - before, stats.rows = rows_ - rows_before;
    active.push_back(std::move(text));
  };
  // The text at `place` has ended; the last one takes its place.
  const auto finish = [&](std::size_t place) {
    std::unique_ptr<Text> text = std::move(active[place]);
    Generation& made = text->decoding->result();
    Stats& stats = made.stats;
    if (text->guessing && options[options.size() == 1 ? 0 : text->index].speculate) {
      stats.speculation = text->guessing->stats();
    }
    stats.prompt_tokens = static_cast<std::int64_t>(prompts[text->index].size());
    stats.new_tokens = static_cast<std::int64_t>(made.ids.size());
    stats.prefill_seconds = text->prefilled - text->start;
    stats.prefill_cpu_seconds = text->cpu_prefilled - text->cpu_start;
    stats.decode_seconds = wall_seconds() - text->prefilled;
    stats.decode_cpu_seconds = cpu_seconds() - text->cpu_prefilled;
    stats.model_seconds = backend_->engine_seconds() - text->model_start;
    results[text->index] = std::move(made);
    const std::size_t last = active.size() - 1;
    if (place != last) {
      backend_->copy(static_cast<std::int64_t>(last), static_cast<std::int64_t>(place),
                     static_cast<std::int64_t>(active[last]->tokens.size()));
      active[place] = std::move(active[last]);
    }
    active.pop_back();
    idle.push_back(std::move(text));
  };
  // Says the next token of the text at `place`. False: it has ended.
  const auto said = [&](std::size_t place) {
    Text& text = *active[place];
    Decoding& decoding = *text.decoding;
    if (cancelled_.load()) {
      decoding.end(StopReason::cancelled);
      return false;
    }
    decoding.draw(text.logits);
    Generation& made = decoding.result();
    if (made.ids.empty()) made.stats.first_token_seconds = wall_seconds() - text.start;
    if (!decoding.say()) return false;
    if (static_cast<std::int64_t>(text.tokens.size()) < capacity()) return true;
    decoding.end(StopReason::context);
    return false;
  };

  std::vector<bool> more;
  while (true) {
    for (std::size_t place = 0;;) {  // every text says its token; places that become free are taken by the next prompts
      if (place == active.size()) {
        if (place == static_cast<std::size_t>(batch) || next == prompts.size() || cancelled_.load()) break;
        begin();
      }
      if (said(place)) {
        ++place;
      } else {
        finish(place);
      }
    }
    if (active.empty()) break;
    passes.clear();
    const auto texts = static_cast<std::int64_t>(active.size());
    std::size_t rows = 1;
    std::int64_t drafting = 0;
    for (const auto& text : active) {
      passes.push_back(text->decoding->rows(*backend_, texts));
      rows = std::max(rows, passes.back().ids.size());
      drafting += text->decoding->drafted() ? 1 : 0;
    }
    for (std::size_t i = 0; i < active.size(); ++i) {
      if (active[i]->guessing) active[i]->guessing->charge(static_cast<std::int64_t>(rows), drafting, passes[i].past);
    }
    const auto all = backend_->run_all(passes);
    const std::size_t each = all.size() / active.size();
    more.assign(active.size(), true);
    for (std::size_t i = 0; i < active.size(); ++i) {
      Text& text = *active[i];
      backend_->select(static_cast<std::int64_t>(i));
      more[i] = text.decoding->ran(*backend_, all.subspan(i * each, each), backend_->judge());
      std::copy(text.decoding->logits().begin(), text.decoding->logits().end(), text.logits.begin());
      Stats& stats = text.decoding->result().stats;
      stats.passes += 1;
      stats.rows += static_cast<std::int64_t>(passes[i].ids.size());
    }
    for (std::size_t i = active.size(); i-- > 0;) {
      if (!more[i]) finish(i);
    }
  }
  for (; next < prompts.size(); ++next) results[next].reason = StopReason::cancelled;
  return results;
}

}  // namespace farthing
