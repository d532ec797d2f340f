// The two small graphs of drawing: `sample` turns logits into codes, `accept_*` judge drafts. One operator each.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "graph.h"

namespace farthing::drawing {

// What logits go through before a code is drawn. Temperature 0 = always the best; top_k 0, top_p 1 = off.
struct Warp {
  double temperature = 1;
  std::int64_t top_k = 0;
  double top_p = 1;
};

// Throws Error(request).
void check(const Warp& warp);

class Sampler {
 public:
  Sampler(const std::filesystem::path& path, std::int64_t codes, const OrtOptions& options);

  // Room for that many rows; with_probs of them also get distributions.
  void begin(std::int64_t rows, std::int64_t with_probs);
  // Of the `rows` rows of the next draw: the guidance's scale and the random number.
  std::span<float> scales(std::int64_t rows) { return std::span(scales_).first(static_cast<std::size_t>(rows)); }
  std::span<float> uniforms(std::int64_t rows) { return std::span(uniforms_).first(static_cast<std::size_t>(rows)); }
  // Ids int64 [rows] drawn from logits float32 [rows, V]; unguided, `without` is `with`. Valid until the next draw.
  // Throws Error(internal) for NaN.
  std::span<const std::int64_t> draw(std::span<const float> with, std::span<const float> without, std::int64_t rows,
                                     const Warp& warp, bool probs);
  // Of the last draw with probs: float32 [rows, V].
  std::span<const float> probs() const { return probs_; }
  double seconds() const { return graph_.seconds(); }

 private:
  std::int64_t codes_;
  Graph graph_;
  std::vector<float> scales_, uniforms_, probs_;
  std::vector<std::int64_t> ids_;
  float temperature_ = 1, top_p_ = 1;
  std::int64_t top_k_ = 0;
};

struct Verdict {
  std::int64_t accepted = 0, next = 0;
};

class Acceptor {
 public:
  Acceptor(const std::filesystem::path& path, std::int64_t codes, std::int64_t most, const OrtOptions& options);

  // Of the next judgement over `drafts` of them: float32 [L + 1].
  std::span<float> uniforms(std::int64_t drafts) {
    return std::span(uniforms_).first(static_cast<std::size_t>(drafts + 1));
  }
  // `p` float32 [L+1,V] of the model, `q` float32 [L,V] that `drafts` int64 [L] were drawn from. Throws Error(internal).
  Verdict judge(std::span<const float> p, std::span<const float> q, std::span<const std::int64_t> drafts);
  // Chance of each draft of the last judgement to be accepted.
  std::span<const float> chances() const { return chances_; }
  double seconds() const { return graph_.seconds(); }

 private:
  std::int64_t codes_;
  Graph graph_;
  std::vector<float> uniforms_, chances_;
  std::vector<std::int64_t> drafts_;
  std::int64_t accepted_ = 0, next_ = 0;
};

}  // namespace farthing::drawing
