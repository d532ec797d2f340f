#include "step.h"

#include <algorithm>

#include "error.h"
#include "tensors.h"

namespace farthing::drawing {
namespace {

std::int64_t words(std::int64_t rows) { return (rows + 63) / 64; }
std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

}  // namespace

Step::Step(const std::filesystem::path& path, const std::filesystem::path& prefill, const StepShape& shape, Work work,
           const OrtOptions& options)
    : shape_(shape), graph_(path, options, work) {
  constexpr auto i64 = type_of<std::int64_t>(), f32 = type_of<float>();
  if (shape.per_step > 1) {
    graph_.need_input(tensors::kInputIds, i64, {-1, -1, shape.per_step});
  } else {
    graph_.need_input(tensors::kInputIds, i64, {-1, -1});
  }
  need_ports(graph_);
  if (prefill.empty()) return;
  prefill_.emplace(prefill, options, Work::seldom);
  prefill_->need_input(tensors::kEmbeds, f32, {-1, -1, shape.hidden_size});
  need_ports(*prefill_);
}

void Step::need_ports(Graph& graph) {
  constexpr auto i64 = type_of<std::int64_t>(), f32 = type_of<float>();
  const auto& s = shape_;
  if (s.per_step > 1) {
    graph.need_output(tensors::kLogits, f32, {-1, -1, s.per_step, s.codes});
  } else {
    graph.need_output(tensors::kLogits, f32, {-1, -1, s.codes});
  }
  graph.need_input(tensors::kPositions, i64, {-1, -1});
  graph.need_input(tensors::kPastLen, i64, {-1});
  graph.need_input(tensors::kVisible, i64, {-1, -1, -1});
  graph.need_input(tensors::kLogitRows, i64, {-1, -1});
  if (s.below) graph.need_output(tensors::kBelowLogits, f32, {-1, -1, s.codes});
  if (s.features_in) graph.need_input(tensors::kFeatures, f32, {-1, -1, s.hidden_size});
  if (!s.features_out.empty()) graph.need_output(s.features_out, f32, {-1, -1, s.hidden_size});
  for (std::int64_t layer = 0; layer < s.layers; ++layer) {
    const std::string number = std::to_string(layer);
    for (const std::string& name : {tensors::kPastK, tensors::kPastV}) {
      graph.need_input(name + number, f32, {-1, s.heads, -1, s.head_dim});
    }
    for (const std::string& name : {tensors::kPresentK, tensors::kPresentV}) {
      graph.need_output(name + number, f32, {-1, s.heads, -1, s.head_dim});
    }
  }
  graph.no_other_inputs();
}

void Step::begin(std::int64_t batch, std::int64_t slots, std::int64_t rows, std::int64_t wanted) {
  past_ = passes_ = 0;
  logits_now_ = features_now_ = 0;
  if (batch == batch_ && slots == slots_ && rows <= rows_ && wanted <= wanted_) return;
  graph_.forget();
  if (prefill_) prefill_->forget();
  keys_.clear(), values_.clear();
  batch_ = 0;  // until everything has its memory
  const std::size_t cache = size(batch * shape_.heads * slots * shape_.head_dim);
  for (std::int64_t layer = 0; layer < shape_.layers; ++layer) {
    keys_.emplace_back(cache);
    values_.emplace_back(cache);
  }
  const std::size_t each = size(wanted * shape_.per_step * shape_.codes);
  ids_.resize(size(batch * rows * shape_.per_step));
  positions_.resize(size(batch * rows));
  past_len_.resize(size(batch));
  visible_.resize(size(batch * rows * words(rows)));
  logit_rows_.resize(size(batch * wanted));
  logits_.resize(size(batch) * each);
  if (shape_.below) below_.resize(size(batch) * each);
  if (shape_.features_in) features_.resize(size(batch * rows * shape_.hidden_size));
  if (!shape_.features_out.empty()) features_out_.resize(size(batch * rows * shape_.hidden_size));
  batch_ = batch, slots_ = slots, rows_ = rows, wanted_ = wanted;
}

std::span<std::int64_t> Step::ids(std::int64_t rows) {
  return std::span(ids_).first(size(batch_ * rows * shape_.per_step));
}

std::span<float> Step::features(std::int64_t rows) {
  return std::span(features_).first(size(batch_ * rows * shape_.hidden_size));
}

void Step::fill(std::span<const std::int64_t> positions, std::int64_t wanted, bool together) {
  const auto rows = static_cast<std::int64_t>(positions.size());
  if (rows < 1 || rows > rows_ || wanted < 1 || wanted > std::min(rows, wanted_) || past_ + rows > slots_) {
    throw Error(Status::internal, "a pass of " + std::to_string(rows) + " rows of an image was asked for");
  }
  const std::int64_t count = words(rows);
  for (std::int64_t b = 0; b < batch_; ++b) {
    std::copy(positions.begin(), positions.end(), positions_.begin() + b * rows);
    for (std::int64_t i = 0; i < wanted; ++i) logit_rows_[size(b * wanted + i)] = rows - wanted + i;
    std::int64_t* bits = visible_.data() + b * rows * count;
    std::fill_n(bits, rows * count, 0);
    for (std::int64_t row = 0; row < rows; ++row, bits += count) {
      const std::int64_t last = together ? rows - 1 : row;
      for (std::int64_t w = 0; w < last / 64; ++w) bits[w] = -1;
      bits[last / 64] = static_cast<std::int64_t>(~std::uint64_t{0} >> (63 - last % 64));
    }
  }
  std::fill(past_len_.begin(), past_len_.end(), past_);
}

void Step::ran(std::int64_t rows, std::int64_t wanted) {
  past_ += rows;
  ++passes_;
  logits_now_ = size(batch_ * wanted * shape_.per_step * shape_.codes);
  features_now_ = shape_.features_out.empty() ? 0 : size(batch_ * rows * shape_.hidden_size);
}

void Step::run(std::span<const std::int64_t> positions, std::int64_t wanted, bool together) {
  fill(positions, wanted, together);
  const auto rows = static_cast<std::int64_t>(positions.size());
  graph_.run({rows, wanted, 0, 0}, [&](Binder& binder) {
    if (shape_.per_step > 1) {
      binder.in(tensors::kInputIds, ids_.data(), {batch_, rows, shape_.per_step});
    } else {
      binder.in(tensors::kInputIds, ids_.data(), {batch_, rows});
    }
    bind(binder, rows, wanted);
  });
  ran(rows, wanted);
}

void Step::prefill(std::span<const std::int64_t> positions, std::span<const float> embeds) {
  fill(positions, 1, false);
  const auto rows = static_cast<std::int64_t>(positions.size());
  if (!prefill_ || embeds.size() != size(batch_ * rows * shape_.hidden_size)) {
    throw Error(Status::internal, "a pass of " + std::to_string(rows) + " rows of a condition was asked for");
  }
  prefill_->forget();  // the rows lie elsewhere each time, and this is one pass of an image
  prefill_->run({rows, 1, 0, 0}, [&](Binder& binder) {
    binder.in(tensors::kEmbeds, const_cast<float*>(embeds.data()), {batch_, rows, shape_.hidden_size});
    bind(binder, rows, 1);
  });
  ran(rows, 1);
}

void Step::bind(Binder& binder, std::int64_t rows, std::int64_t wanted) {
  const auto& s = shape_;
  if (s.per_step > 1) {
    binder.out(tensors::kLogits, logits_.data(), {batch_, wanted, s.per_step, s.codes});
  } else {
    binder.out(tensors::kLogits, logits_.data(), {batch_, wanted, s.codes});
  }
  binder.in(tensors::kPositions, positions_.data(), {batch_, rows});
  binder.in(tensors::kPastLen, past_len_.data(), {batch_});
  binder.in(tensors::kVisible, visible_.data(), {batch_, rows, words(rows)});
  binder.in(tensors::kLogitRows, logit_rows_.data(), {batch_, wanted});
  if (s.below) binder.out(tensors::kBelowLogits, below_.data(), {batch_, wanted, s.codes});
  if (s.features_in) binder.in(tensors::kFeatures, features_.data(), {batch_, rows, s.hidden_size});
  if (!s.features_out.empty()) binder.out(s.features_out, features_out_.data(), {batch_, rows, s.hidden_size});
  for (std::size_t layer = 0; layer < keys_.size(); ++layer) {
    const std::string number = std::to_string(layer);
    const auto in_place = [&](const std::string& past, const std::string& present, Buffer& cache) {
      binder.in(past + number, cache.data(), {batch_, s.heads, slots_, s.head_dim});
      binder.out(present + number, cache.data(), {batch_, s.heads, slots_, s.head_dim});
    };
    in_place(tensors::kPastK, tensors::kPresentK, keys_[layer]);
    in_place(tensors::kPastV, tensors::kPresentV, values_[layer]);
  }
}

}  // namespace farthing::drawing
