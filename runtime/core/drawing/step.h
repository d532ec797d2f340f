// One step graph with the caches of a batch of sequences that grow together: an image model, or its drafter.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "buffer.h"
#include "graph.h"

namespace farthing::drawing {

// What a step graph looks like.
struct StepShape {
  std::int64_t layers = 0, heads = 0, head_dim = 0;
  std::int64_t codes = 0, per_step = 1;
  std::int64_t hidden_size = 0;
  bool below = false;        // output below_logits (NAR)
  bool features_in = false;  // input features: a drafter
  std::string features_out;  // name of that output; empty = none
};

class Step {
 public:
  // `prefill`: the graph of the same model that takes rows instead of ids, or an empty path. Throws Error(bundle) for graphs of another shape.
  Step(const std::filesystem::path& path, const std::filesystem::path& prefill, const StepShape& shape, Work work,
       const OrtOptions& options);

  // Empty caches for `batch` sequences of `slots` slots, and room for passes of `rows` rows of which `wanted` get logits.
  void begin(std::int64_t batch, std::int64_t slots, std::int64_t rows, std::int64_t wanted);

  // What the next pass reads. ids: int64 [B, S, per_step]; features: float32 [B, S, D].
  std::span<std::int64_t> ids(std::int64_t rows);
  std::span<float> features(std::int64_t rows);
  // A pass of S rows, row i at positions[i] (the same for the whole batch); the last `wanted` of them get logits. `together`: rows see
  // each other, else those up to themselves. Adds S to the past. Throws Error(internal).
  void run(std::span<const std::int64_t> positions, std::int64_t wanted, bool together);
  // The same with rows float32 [B, S, D] instead of ids; the last gets logits.
  void prefill(std::span<const std::int64_t> positions, std::span<const float> embeds);
  // Of the last pass: float32 [B, wanted, per_step, V], the same, float32 [B, S, D].
  std::span<const float> logits() const { return {logits_.data(), logits_now_}; }
  std::span<const float> below() const { return {below_.data(), shape_.below ? logits_now_ : 0}; }
  std::span<const float> features_made() const { return {features_out_.data(), features_now_}; }

  std::int64_t batch() const { return batch_; }
  std::int64_t past() const { return past_; }
  // Going back is a smaller past: the slots behind are overwritten.
  void rewind(std::int64_t past) { past_ = past; }
  std::int64_t passes() const { return passes_; }
  double seconds() const { return graph_.seconds() + (prefill_ ? prefill_->seconds() : 0); }

 private:
  void need_ports(Graph& graph);
  void fill(std::span<const std::int64_t> positions, std::int64_t wanted, bool together);
  void bind(Binder& binder, std::int64_t rows, std::int64_t wanted);
  void ran(std::int64_t rows, std::int64_t wanted);

  StepShape shape_;
  Graph graph_;
  std::optional<Graph> prefill_;
  std::vector<Buffer> keys_, values_;
  std::vector<std::int64_t> ids_, positions_, past_len_, visible_, logit_rows_;
  std::vector<float> features_, features_out_, logits_, below_;
  std::int64_t batch_ = 0, slots_ = 0, rows_ = 0, wanted_ = 0, past_ = 0, passes_ = 0;
  std::size_t logits_now_ = 0, features_now_ = 0;
};

}  // namespace farthing::drawing
