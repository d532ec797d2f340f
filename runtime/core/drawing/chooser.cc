#include "chooser.h"

#include <algorithm>

#include "error.h"
#include "tensors.h"

namespace farthing::drawing {
namespace {

std::int64_t place_of(const float* data) { return static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(data)); }

// Ids index buffers and codebooks: a graph that gives others is not believed.
void check_id(std::int64_t id, std::int64_t codes, const char* graph) {
  if (id >= 0 && id < codes) return;
  throw Error(Status::internal, std::string("a code of graph ") + graph + " is " + std::to_string(id) +
                                    ", expected 0 to " + std::to_string(codes - 1) +
                                    "; run `farthing verify` on the bundle");
}

}  // namespace

void check(const Warp& warp) {
  if (!(warp.temperature >= 0 && warp.temperature <= 100)) {
    refuse(Status::request, "temperature", std::to_string(warp.temperature), "0 to 100", "correct it");
  }
  if (warp.top_k < 0) refuse(Status::request, "top_k", std::to_string(warp.top_k), "0 (off) or more", "correct it");
  if (!(warp.top_p > 0 && warp.top_p <= 1)) {
    refuse(Status::request, "top_p", std::to_string(warp.top_p), "above 0, at most 1", "correct it");
  }
}

Sampler::Sampler(const std::filesystem::path& path, std::int64_t codes, const OrtOptions& options)
    : codes_(codes), graph_(path, options, Work::small) {
  constexpr auto i64 = type_of<std::int64_t>(), f32 = type_of<float>();
  for (const std::string& name : {tensors::kCond, tensors::kUncond}) graph_.need_input(name, f32, {-1, -1, codes});
  graph_.need_input(tensors::kScale, f32, {-1});
  graph_.need_input(tensors::kUniforms, f32, {-1, -1});
  graph_.need_input(tensors::kTemperature, f32, {1});
  graph_.need_input(tensors::kTopK, i64, {1});
  graph_.need_input(tensors::kTopP, f32, {1});
  graph_.need_output(tensors::kIds, i64, {-1, -1});
  graph_.need_output(tensors::kProbs, f32, {-1, -1, codes});
  graph_.no_other_inputs();
}

void Sampler::begin(std::int64_t rows, std::int64_t with_probs) {
  const auto most = static_cast<std::size_t>(rows), wide = static_cast<std::size_t>(with_probs * codes_);
  if (most <= scales_.size() && wide <= probs_.size()) return;
  graph_.forget();
  scales_.resize(std::max(scales_.size(), most));
  uniforms_.resize(scales_.size());
  ids_.resize(scales_.size());
  probs_.resize(std::max(probs_.size(), wide));
}

std::span<const std::int64_t> Sampler::draw(std::span<const float> with, std::span<const float> without,
                                            std::int64_t rows, const Warp& warp, bool probs) {
  const auto count = static_cast<std::size_t>(rows), wide = static_cast<std::size_t>(rows * codes_);
  if (rows < 1 || count > ids_.size() || with.size() < wide || without.size() < wide ||
      (probs && wide > probs_.size())) {
    throw Error(Status::internal, "a draw of " + std::to_string(rows) + " codes was asked for");
  }
  // The operator gives NaN a meaning; here it means that the model is broken.
  for (const std::span<const float> logits : {with.first(wide), without.first(wide)}) {
    bool nan = false;
    for (const float logit : logits) nan |= logit != logit;
    if (nan) throw Error(Status::internal, "a logit is NaN, expected numbers; run `farthing verify` on the bundle");
  }
  temperature_ = static_cast<float>(warp.temperature);
  top_k_ = warp.top_k;
  top_p_ = static_cast<float>(warp.top_p);
  // Each code is a row of the graph's batch, since a scale is a row's.
  graph_.run({probs ? -rows : rows, place_of(with.data()), place_of(without.data()), 0}, [&](Binder& binder) {
    binder.in(tensors::kCond, const_cast<float*>(with.data()), {rows, 1, codes_});
    binder.in(tensors::kUncond, const_cast<float*>(without.data()), {rows, 1, codes_});
    binder.in(tensors::kScale, scales_.data(), {rows});
    binder.in(tensors::kUniforms, uniforms_.data(), {rows, 1});
    binder.in(tensors::kTemperature, &temperature_, {1});
    binder.in(tensors::kTopK, &top_k_, {1});
    binder.in(tensors::kTopP, &top_p_, {1});
    binder.out(tensors::kIds, ids_.data(), {rows, 1});
    if (probs) binder.out(tensors::kProbs, probs_.data(), {rows, 1, codes_});
  });
  for (std::size_t i = 0; i < count; ++i) check_id(ids_[i], codes_, "sample");
  return std::span<const std::int64_t>(ids_).first(count);
}

Acceptor::Acceptor(const std::filesystem::path& path, std::int64_t codes, std::int64_t most, const OrtOptions& options)
    : codes_(codes),
      graph_(path, options, Work::small),
      uniforms_(static_cast<std::size_t>(most + 1)),
      chances_(static_cast<std::size_t>(most)),
      drafts_(static_cast<std::size_t>(most)) {
  constexpr auto i64 = type_of<std::int64_t>(), f32 = type_of<float>();
  graph_.need_input(tensors::kP, f32, {-1, codes});
  graph_.need_input(tensors::kQ, f32, {-1, codes});
  graph_.need_input(tensors::kDraft, i64, {-1});
  graph_.need_input(tensors::kUniforms, f32, {-1});
  graph_.need_output(tensors::kAccepted, i64, {1});
  graph_.need_output(tensors::kNext, i64, {1});
  graph_.need_output(tensors::kChance, f32, {-1});
  graph_.no_other_inputs();
}

Verdict Acceptor::judge(std::span<const float> p, std::span<const float> q, std::span<const std::int64_t> drafts) {
  const auto count = static_cast<std::int64_t>(drafts.size());
  const auto wide = drafts.size() * static_cast<std::size_t>(codes_);
  if (count < 1 || drafts.size() > drafts_.size() || q.size() < wide ||
      p.size() < wide + static_cast<std::size_t>(codes_)) {
    throw Error(Status::internal, "a judgement of " + std::to_string(count) + " drafts was asked for");
  }
  std::copy(drafts.begin(), drafts.end(), drafts_.begin());
  graph_.run({count, place_of(p.data()), place_of(q.data()), 0}, [&](Binder& binder) {
    binder.in(tensors::kP, const_cast<float*>(p.data()), {count + 1, codes_});
    binder.in(tensors::kQ, const_cast<float*>(q.data()), {count, codes_});
    binder.in(tensors::kDraft, drafts_.data(), {count});
    binder.in(tensors::kUniforms, uniforms_.data(), {count + 1});
    binder.out(tensors::kAccepted, &accepted_, {1});
    binder.out(tensors::kNext, &next_, {1});
    binder.out(tensors::kChance, chances_.data(), {count});
  });
  if (accepted_ < 0 || accepted_ > count) check_id(-1, codes_, "accept");
  check_id(next_, codes_, "accept");
  return {accepted_, next_};
}

}  // namespace farthing::drawing
