// What a decode loop needs of whatever runs the graph. The loops never see which backend it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "error.h"

namespace farthing {

// One pass over some rows of one sequence. Row i goes to cache slot past + i and rotary position positions[i].
struct Pass {
  std::span<const std::int32_t> ids;
  std::span<const std::int64_t> positions;
  std::int64_t past = 0;
  std::span<const std::int64_t> logit_rows;  // which rows go through the head
  // Bits of the rows that each row sees, (rows + 63) / 64 words a row; empty = those up to itself. Only where branches() is true.
  std::span<const std::int64_t> visible;
  // How many of the rows, the last ones, are mask tokens. Only where masks() is above 0.
  std::int64_t mask_rows = 0;
  // Slots that the layers behind a pruning of images inside the decoder hold fewer: row i goes to slot past - gap + i there.
  std::int64_t gap = 0;
};

// One pass over rows of an image: keys and values, no logits.
struct VisualPass {
  const std::string& step;                  // name of the graph
  std::span<const float> embeds;            // [rows, hidden_size]
  std::span<const std::int64_t> positions;  // [rows], with M-RoPE [3, rows]
  std::int64_t rows = 0, past = 0, gap = 0;
};

// An image as weights: a low-rank change of linears, an input of every pass (VisionSpec::perceive).
struct WeightChange {
  std::string name;
  std::shared_ptr<const float> values;  // [layers, D, r]
  std::size_t count = 0;
};

// Rows of a text in a pass over several texts, at most.
constexpr std::int64_t kMostRowsOfEach = 64;

class Backend {
 public:
  virtual ~Backend() = default;

  // Runs the pass, writing its keys and values into the cache. The result, float32 [logit_rows, vocab], stays valid until the
  // next run. Throws Error. Does not allocate for a pass of the shape of the one before.
  virtual std::span<const float> run(const Pass& pass) = 0;

  virtual std::int64_t capacity() const = 0;
  virtual std::int64_t vocab_size() const = 0;
  // Rows a pass may have.
  virtual std::int64_t chunk() const = 0;
  // Whether rows of a pass may see other rows than those before them: trees of drafts.
  virtual bool branches() const { return false; }
  // Mask tokens that the model was trained with (ids vocab_size() + i); 0 = it has none.
  virtual std::int64_t masks() const { return 0; }
  // Tokens that draft_chain() can guess; 0 = the model has no head for that.
  virtual std::int64_t drafts() const { return 0; }
  // Latents of row i of those of the last pass that got logits, float32 [L]; empty for models without.
  virtual std::span<const float> row_latents(std::int64_t) { return {}; }
  // Of each row of the last pass that got logits, how good the token is that it read, float32 [logit_rows], 0 to 1; empty for models
  // without a judge. Valid until the next run.
  virtual std::span<const float> judge() { return {}; }
  virtual bool judges() const { return false; }
  // D of the masks' latents.
  virtual std::int64_t latent_size() const { return 0; }
  // Latents of the last pass's mask rows, float32 [mask_rows, D]; valid until the next run.
  virtual std::span<const float> mask_latents() { return {}; }
  // The n <= drafts() tokens that the head guesses behind `first`, with their probabilities, from the latents of n masks, float32 [n, D],
  // or of the row that said `first`.
  virtual void draft_chain(std::int32_t first, std::span<const float> latents, std::span<std::int32_t> ids,
                           std::span<float> chances);
  // Passes that want the logits of up to `rows` rows will come: their memory is taken now.
  virtual void reserve(std::int64_t) {}
  // Moves rows of the last pass, which began at `past`, together: row rows[t] to slot past + t. Ascending, rows[t] >= t.
  virtual void keep(std::int64_t past, std::span<const std::int32_t> rows);
  // Goes back to `length` tokens and returns the token from which the caller must run again: `length` itself where nothing must,
  // as with a cache, whose slots are overwritten later. A recurrent state knows its last pass only.
  virtual std::int64_t rewind(std::int64_t length) { return length; }
  // Whether run_visual() can be called.
  virtual bool takes_images() const { return false; }
  // Writes an image's rows into the cache. Returns how many slots they take in the layers from VisionSpec::prune_layer on: fewer than
  // pass.rows where the graph drops rows on its way; it must then get all rows of the image at once. Throws Error.
  virtual std::int64_t run_visual(const VisualPass& pass);
  // From now on the linears are changed so; none: they are the text model's.
  virtual void perceive(std::span<const WeightChange>) {}
  // Key or value cache of a layer, [kv_heads, capacity, head_dim] numbers of Bundle::cache_width bytes; empty for a recurrent state.
  virtual std::span<std::byte> keys(std::int64_t) { return {}; }
  virtual std::span<std::byte> values(std::int64_t) { return {}; }
  // Recurrent state of a layer, float32 [state_rows, state_width]; empty for a cache.
  virtual std::span<float> state(std::int64_t) { return {}; }
  // Texts that can run together, each with a cache of its own; setting it empties the caches and selects the first.
  virtual void texts(std::int64_t count);
  // Whose cache, latents and judgements all other calls mean.
  virtual void select(std::int64_t) {}
  // One pass over the first passes.size() texts, passes[i] over text i. float32 [texts, R, V], R = the most logit_rows of them;
  // row r of text i at (i * R + r) * V. A text's shorter pass is filled up with rows behind it whose results are worth nothing.
  virtual std::span<const float> run_all(std::span<const Pass> passes);
  // Text `to` becomes what text `from` is, of `length` tokens.
  virtual void copy(std::int64_t from, std::int64_t to, std::int64_t length);
  // Caches or states were overwritten with a saved file's.
  virtual void state_loaded() {}
  // Seconds spent inside the engine so far, wall clock.
  virtual double engine_seconds() const = 0;
};

inline void Backend::draft_chain(std::int32_t, std::span<const float>, std::span<std::int32_t>, std::span<float>) {
  throw Error(Status::internal, "a backend without masks was asked for a draft");
}

inline void Backend::keep(std::int64_t, std::span<const std::int32_t>) {
  throw Error(Status::internal, "a backend without branches was asked to move rows");
}

inline std::int64_t Backend::run_visual(const VisualPass&) {
  throw Error(Status::internal, "a backend without images was asked to run one");
}

inline void Backend::texts(std::int64_t count) {
  if (count == 1) return;
  refuse(Status::request, "batch", std::to_string(count), "1 with this backend or kind of model",
         "generate one text after another");
}

inline std::span<const float> Backend::run_all(std::span<const Pass>) {
  throw Error(Status::internal, "a backend for one text was asked to run several");
}

inline void Backend::copy(std::int64_t, std::int64_t, std::int64_t) {
  throw Error(Status::internal, "a backend for one text was asked to copy it");
}

}  // namespace farthing
