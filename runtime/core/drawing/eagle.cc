#include <algorithm>
#include <numeric>

#include "drafter.h"

namespace farthing::drawing {

Eagle::Eagle(Step& step, Sampler& sampler, const How& how)
    : step_(step),
      sampler_(sampler),
      how_(how),
      ids_(static_cast<std::size_t>(how.most)),
      positions_(static_cast<std::size_t>(how.most + 1)),
      q_(static_cast<std::size_t>(how.most * how.codes)) {
  pending_.reserve(static_cast<std::size_t>(how.most + 1));
}

void Eagle::begin(const Step& model, std::int64_t code) {
  step_.rewind(0);
  pending_.assign(1, code);
  feed(model, 1, true);
}

// `rows` of the features of `source`'s last pass, of each sequence its last or its first ones, become what the next pass reads.
void Eagle::feed(const Step& source, std::int64_t rows, bool last) {
  const auto made = source.features_made();
  const std::size_t wanted = static_cast<std::size_t>(rows * how_.hidden_size);
  const auto batch = static_cast<std::size_t>(step_.batch()), each = made.size() / batch;
  const auto to = step_.features(rows);
  for (std::size_t b = 0; b < batch; ++b) {
    const auto from = made.subspan(b * each, each);
    const auto part = last ? from.last(wanted) : from.first(wanted);
    std::copy(part.begin(), part.end(), to.begin() + static_cast<std::ptrdiff_t>(b * wanted));
  }
}

void Eagle::run(std::int64_t rows) {
  const auto positions = std::span(positions_).first(static_cast<std::size_t>(rows));
  std::iota(positions.begin(), positions.end(), step_.past());  // of the features, so one less than of the codes
  step_.run(positions, 1, false);
}

Drafts Eagle::propose(std::int64_t length, std::int64_t number, Stream& stream) {
  const auto batch = static_cast<std::size_t>(step_.batch()), codes = static_cast<std::size_t>(how_.codes);
  const auto rows = static_cast<std::int64_t>(pending_.size());
  const auto ids = step_.ids(rows);
  for (std::size_t b = 0; b < batch; ++b) {
    std::copy(pending_.begin(), pending_.end(), ids.begin() + static_cast<std::ptrdiff_t>(b * pending_.size()));
  }
  run(rows);
  const std::int64_t known = step_.past();
  const Warp best{0, 0, 1};
  for (std::int64_t j = 0; j < length; ++j) {
    if (j > 0) {
      feed(step_, 1, true);  // its own
      const auto next = step_.ids(1);
      std::fill(next.begin(), next.end(), ids_[static_cast<std::size_t>(j - 1)]);
      run(1);
    }
    sampler_.scales(1)[0] = how_.guidance.at(number + j, how_.tokens);
    sampler_.uniforms(1)[0] = how_.point ? 0 : stream.next();
    const auto logits = step_.logits();
    ids_[static_cast<std::size_t>(j)] =
        sampler_.draw(logits.first(codes), logits.last(codes), 1, how_.point ? best : how_.warp, true)[0];
    std::copy_n(sampler_.probs().begin(), codes, q_.begin() + j * static_cast<std::int64_t>(codes));
  }
  step_.rewind(known);  // its own features make way for the model's
  const auto count = static_cast<std::size_t>(length);
  return {std::span(ids_).first(count), std::span(q_).first(count * codes)};
}

void Eagle::hear(const Step& model, std::span<const float>, std::span<const std::int64_t> fresh, Stream&) {
  pending_.assign(fresh.begin(), fresh.end());
  feed(model, static_cast<std::int64_t>(fresh.size()), false);
}

}  // namespace farthing::drawing
