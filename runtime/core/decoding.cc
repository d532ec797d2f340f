#include "decoding.h"

#include <algorithm>

namespace farthing {

void PassRows::reserve(std::int64_t rows, std::int64_t masks) {
  const auto real = static_cast<std::size_t>(rows), all = real * (1 + static_cast<std::size_t>(masks));
  ids.reserve(all), path.reserve(real), kept.reserve(real);
  if (positions.size() < all) positions.resize(all);
  if (logit_rows.size() < real) logit_rows.resize(real);
  visible.reserve(all * ((all + 63) / 64));
}

Decoding::Decoding(std::vector<std::int32_t>& tokens, PassRows& rows, Sampler& sampler, Speculation* guessing,
                   const GenerateOptions& options, const std::function<bool(std::int32_t)>& on_token, Offsets offsets)
    : tokens_(tokens),
      rows_(rows),
      sampler_(sampler),
      guessing_(guessing),
      options_(options),
      on_token_(on_token),
      offsets_(offsets) {
  result_.ids.reserve(static_cast<std::size_t>(
      std::min(options.max_new_tokens, static_cast<std::int64_t>(std::max(tokens.capacity(), std::size_t{1})))));
  sampler_.forget();
  if (options_.sampler.repetition_penalty != 1) {
    for (const std::int32_t id : tokens_) sampler_.see(id);
  }
  if (guessing_) guessing_->begin(tokens_);
}

bool Decoding::stops(std::int32_t id) const {
  return std::find(options_.stop_ids.begin(), options_.stop_ids.end(), id) != options_.stop_ids.end();
}

bool Decoding::utter(std::int32_t id) {
  if (stops(id)) {
    result_.stop_id = id;
    end(StopReason::eos);
    return false;
  }
  result_.ids.push_back(id);
  const bool more = !on_token_ || on_token_(id);
  if (more && options_.sampler.repetition_penalty != 1) sampler_.see(id);
  if (!more) end(StopReason::callback);
  if (more && left() == 0) end(StopReason::length);
  return more && left() > 0;
}

void Decoding::draw(std::span<const float> logits) {
  if (!next_) next_ = sampler_.next(logits, options_.sampler, result_.ids.size());
}

bool Decoding::say() {
  newest_ = *next_;
  next_.reset();
  return utter(newest_);
}

Pass Decoding::rows(const Backend& backend, std::int64_t texts) {
  const auto base = static_cast<std::int64_t>(tokens_.size());
  if (guessing_) {
    const std::int64_t slots = backend.capacity() - base;
    plan_ = &guessing_->plan(std::span(result_.ids).subspan(shown_), base, std::min(left(), slots) - 1, slots, texts);
    shown_ = result_.ids.size();
  } else {
    alone_.set(newest_, no_draft_, {});
    plan_ = &alone_;
  }
  const std::size_t rows = plan_->rows(), all = plan_->all_rows();
  rows_.ids.assign(plan_->ids().begin(), plan_->ids().end());
  for (std::size_t i = 0; i < rows; ++i) {
    rows_.positions[i] = base + offsets_.shift + plan_->depths()[i];
    rows_.logit_rows[i] = static_cast<std::int64_t>(i);
  }
  rows_.visible.clear();
  if (!plan_->chain() || all > rows) see_rows(backend.vocab_size());
  return {rows_.ids,     {rows_.positions.data(), all},         base,        {rows_.logit_rows.data(), rows},
          rows_.visible, static_cast<std::int64_t>(all - rows), offsets_.gap};
}

// Which rows each row sees, and the mask rows, whose ids begin at `mask_id`.
void Decoding::see_rows(std::int64_t mask_id) {
  const std::size_t rows = plan_->rows(), all = plan_->all_rows(), words = (all + 63) / 64;
  const auto masks = static_cast<std::size_t>(plan_->masks());
  rows_.visible.assign(all * words, 0);
  const auto see = [&](std::size_t row, std::size_t before) {  // what `before` sees, and itself
    std::int64_t* bits = rows_.visible.data() + row * words;
    if (before != row) std::copy_n(rows_.visible.data() + before * words, words, bits);
    bits[row / 64] |= static_cast<std::int64_t>(std::uint64_t{1} << (row % 64));
  };
  for (std::size_t i = 0; i < rows; ++i) see(i, i > 0 ? static_cast<std::size_t>(plan_->parents()[i]) : 0);
  std::size_t row = rows;
  for (const std::int32_t real : plan_->masked_rows()) {
    for (std::size_t i = 0; i < masks; ++i, ++row) {
      rows_.ids.push_back(static_cast<std::int32_t>(mask_id + static_cast<std::int64_t>(i)));
      rows_.positions[row] = rows_.positions[static_cast<std::size_t>(real)] + 1 + static_cast<std::int64_t>(i);
      see(row, i == 0 ? static_cast<std::size_t>(real) : row - 1);
    }
  }
}

bool Decoding::ran(Backend& backend, std::span<const float> logits, std::span<const float> judge) {
  const Verification found{*plan_, logits, judge, backend.vocab_size()};
  rows_.path.clear();
  bool more = true;
  std::int32_t row = 0;
  std::int64_t judged = 0;
  while (plan_->rows() > 1) {  // a single row is drawn from by draw()
    next_ = sampler_.next(found.row(row), options_.sampler, result_.ids.size());
    const std::int32_t child = guessing_->accept(found, row, *next_);
    if (child < 0) break;
    const std::int32_t said = plan_->ids()[static_cast<std::size_t>(child)];
    const bool own = said == *next_;
    if (!own && stops(said)) break;  // a text ends by the model's own word alone
    if (!(more = utter(said))) break;
    judged += own ? 0 : 1;
    rows_.path.push_back(child);
    row = child;
  }
  logits_ = found.row(row);
  settle(backend);
  if (guessing_) {
    guessing_->ran(rows_.path, judged, backend.masks() > 0 ? backend.mask_latents() : backend.row_latents(row));
  }
  return more;
}

// The cache holds all rows; keeps the root and the path.
void Decoding::settle(Backend& backend) {
  const auto base = static_cast<std::int64_t>(tokens_.size());
  tokens_.push_back(plan_->ids()[0]);
  std::int32_t kept = 1;
  bool moved = false;
  for (const std::int32_t row : rows_.path) {
    moved |= row != kept++;
    tokens_.push_back(plan_->ids()[static_cast<std::size_t>(row)]);
  }
  if (moved) {
    rows_.kept.assign(1, 0);
    rows_.kept.insert(rows_.kept.end(), rows_.path.begin(), rows_.path.end());
    backend.keep(base, rows_.kept);
  } else if (static_cast<std::size_t>(kept) < plan_->rows()) {
    backend.rewind(base + kept);
  }
}

}  // namespace farthing
