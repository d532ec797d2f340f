// The one decode loop: draw a token, run it, together with what is guessed to follow, and go on where the guesses end.
#include <algorithm>

#include "clock.h"
#include "decoding.h"
#include "engine.h"
#include "error.h"
#include "vision/vision_encoder.h"

namespace farthing {

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

Generation Engine::generate(std::span<const std::int32_t> prompt, const GenerateOptions& options,
                            const std::function<bool(std::int32_t)>& on_token, std::span<const ImageInput> images) {
  check_generation(prompt, options);
  check_images(prompt, images);
  if (is_marker(prompt.back())) {
    refuse(Status::request, "end of the prompt", "an image", "text", "ask something behind the image");
  }
  if (options.restart_window != 0 && (!images.empty() || (options.resume && !spans_.empty()))) {
    refuse(Status::request, "restart_window", std::to_string(options.restart_window), "0 with images",
           "generate with a context that is long enough");
  }
  cancelled_.store(false);
  const std::int64_t passes = passes_, rows = rows_;
  const double engine = backend_->engine_seconds(), start = wall_seconds(), cpu_start = cpu_seconds();

  Prepared what = prepare(prompt, images, options.reuse_prefix, options.resume);
  append(what);
  const double prefilled = wall_seconds(), cpu_prefilled = cpu_seconds();
  Speculation* const guessing = options.speculate ? speculation_.get() : nullptr;
  Decoding text(tokens_, rows_of_pass_, sampler_, guessing, options, on_token, {spans_.shift(), spans_.gap()});
  Stats& stats = text.result().stats;
  while (true) {
    if (cancelled_.load()) {
      text.end(StopReason::cancelled);
      break;
    }
    text.draw(logits_);
    if (text.result().ids.empty()) stats.first_token_seconds = wall_seconds() - start;
    if (!text.say()) break;
    if (length() == capacity()) {
      if (options.restart_window == 0) {
        text.end(StopReason::context);
        break;
      }
      restart(text.newest(), options.restart_window);
      ++stats.restarts;
      continue;
    }
    const auto all = run(text.rows(*backend_));
    const bool more = text.ran(*backend_, all, backend_->judge());
    logits_ = text.logits();
    if (!more) break;
  }
  if (guessing) stats.speculation = guessing->stats();
  stats.prompt_tokens = what.rows;
  stats.vision = what.stats;
  stats.new_tokens = static_cast<std::int64_t>(text.result().ids.size());
  stats.passes = passes_ - passes;
  stats.rows = rows_ - rows;
  stats.prefill_seconds = prefilled - start;
  stats.prefill_cpu_seconds = cpu_prefilled - cpu_start;
  stats.decode_seconds = wall_seconds() - prefilled;
  stats.decode_cpu_seconds = cpu_seconds() - cpu_prefilled;
  stats.model_seconds = backend_->engine_seconds() - engine;
  return std::move(text.result());
}

}  // namespace farthing
