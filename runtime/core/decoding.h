// One text being decoded: draws a token, chooses the rows that run with it, walks down them, and hears when the text ends.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "backend.h"
#include "generation.h"
#include "sampler.h"
#include "speculation/speculation.h"

namespace farthing {

// Memory of the rows of one text's pass, taken once.
struct PassRows {
  std::vector<std::int32_t> ids, path, kept;
  std::vector<std::int64_t> positions, logit_rows, visible;

  // For passes of `rows` rows; each may have `masks` mask rows behind it.
  void reserve(std::int64_t rows, std::int64_t masks);
};

// What images before it do to the rows of a text: see ImageSpans.
struct Offsets {
  std::int64_t shift = 0, gap = 0;
};

class Decoding {
 public:
  // `tokens`: what has run of the text; kept up to date here. `guessing`: null = plain decoding. All must outlive this.
  Decoding(std::vector<std::int32_t>& tokens, PassRows& rows, Sampler& sampler, Speculation* guessing,
           const GenerateOptions& options, const std::function<bool(std::int32_t)>& on_token, Offsets offsets = {});

  // The next token, from the logits of the last row that counts.
  void draw(std::span<const float> logits);
  // Says it. False: the text ends here.
  bool say();
  // Rows that run now: the token said last, and what is guessed to follow. `texts` run together in the pass; see Speculation::plan.
  Pass rows(const Backend& backend, std::int64_t texts = 1);
  // They ran: says on as far as the guesses are right, and brings cache and tokens to the end of that. `logits` [rows, V].
  // False: the text ends here.
  bool ran(Backend& backend, std::span<const float> logits, std::span<const float> judge);

  void end(StopReason reason) { result_.reason = reason; }
  // Logits of the last row that counts, after ran().
  std::span<const float> logits() const { return logits_; }
  std::int32_t newest() const { return newest_; }
  bool drafted() const { return plan_->rows() > 1; }
  Generation& result() { return result_; }

 private:
  bool stops(std::int32_t id) const;
  bool utter(std::int32_t id);
  std::int64_t left() const { return options_.max_new_tokens - static_cast<std::int64_t>(result_.ids.size()); }
  void see_rows(std::int64_t masks);
  void settle(Backend& backend);

  std::vector<std::int32_t>& tokens_;
  PassRows& rows_;
  Sampler& sampler_;
  Speculation* guessing_;
  const GenerateOptions& options_;
  const std::function<bool(std::int32_t)>& on_token_;
  const Offsets offsets_;
  Generation result_;
  Plan alone_{1};
  const Plan* plan_ = &alone_;
  const Draft no_draft_;
  std::size_t shown_ = 0;             // ids that the drafter has seen
  std::optional<std::int32_t> next_;  // drawn, not said
  std::int32_t newest_ = 0;           // said, not run
  std::span<const float> logits_;
};

}  // namespace farthing
