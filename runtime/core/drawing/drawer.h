// Drawing with an image model: codes under classifier-free guidance, in the model's order or speculatively, then pixels. The same procedure
// as runtime/drawing, number for number.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "chooser.h"
#include "drafter.h"
#include "guidance.h"
#include "image_codes.h"
#include "order.h"
#include "pixels.h"
#include "step.h"

namespace farthing::drawing {

// What is drawn: a class for each image, or the features of a text, float32 [B, rows, width], all of one length.
struct Wish {
  std::span<const std::int64_t> classes;
  std::span<const float> texts;
  std::int64_t count = 0, text_rows = 0;
};

struct DrawOptions {
  std::uint64_t seed = 0;                // image i is drawn under seed + i
  std::optional<double> guidance_scale;  // none = 4, or 1 where the model has no rows without a condition
  std::int64_t guidance_interval = -1;
  std::string guidance_schedule = "constant";
  Warp warp;
  std::optional<std::string> decode;     // plain, or how drafts are accepted; none = as the bundle was exported
  std::int64_t draft_length = 0;         // drafts a round at most; 0 = the bundle's
  std::span<const std::int64_t> prefix;  // [B, n]: the first n codes of each image are given
};

// What became of the drafts of all images.
struct Account {
  std::int64_t rounds = 0, judged = 0, accepted = 0;  // judged: the accepted ones and the refused one of each round
  double chance = 0;                                  // sum over the judged ones
  double above = 0, below = 0;                        // sums of how much that is more, or less, than the exact rule's

  double mean_chance() const { return judged ? chance / static_cast<double>(judged) : 0; }
  // Estimate, a judged draft, of how far codes are from the model's distribution: acceptance above the exact rule's chance moves exactly as
  // much probability. What it says of which mode: runtime/drawing/result.py.
  double total_variation(const std::string& mode) const {
    return judged && mode != "exact" ? std::max(above, below) / static_cast<double>(judged) : 0;
  }
};

struct Drawn {
  std::vector<std::int64_t> codes;  // [B, grid^2], raster order
  bool finished = true;             // false: cancelled, codes not drawn are 0
  std::string decode;
  std::int64_t passes = 0;                 // of the model, over all images
  std::vector<std::int64_t> image_passes;  // of each image, with drafts
  Account account;
  double model_seconds = 0, choosing_seconds = 0, total_seconds = 0;
};

class Drawer {
 public:
  // Throws Error(environment, bundle, request).
  Drawer(const std::filesystem::path& path, const OrtOptions& options);

  // `progress(codes done, codes of all images)` is called after every pass and ends the drawing by returning false.
  // Throws Error(request) for what cannot be drawn; nothing runs then.
  using Progress = std::function<bool(std::int64_t, std::int64_t)>;
  Drawn draw(const Wish& wish, const DrawOptions& options, const Progress& progress = {});
  // uint8 [B, size, size, 3] of codes int64 [B, grid^2]. Throws Error(request).
  void decode(std::span<const std::int64_t> codes, std::span<std::uint8_t> rgb) { pixels_.decode(codes, rgb); }
  // Ends a running draw() after its current pass; from any thread.
  void cancel() { cancelled_ = true; }

  const DrawingBundle& bundle() const { return bundle_; }
  std::int64_t text_width() const { return text_width_; }
  double pixel_seconds() const { return pixels_.seconds(); }
  // Codes of an image of which `most` images are drawn together without drafts.
  std::int64_t most_together() const;

 private:
  struct Batch;
  struct Plan;
  Plan plan(const Wish& wish, const DrawOptions& options) const;
  std::vector<float> condition_rows(const Wish& wish, bool guided);
  std::unique_ptr<Drafter> drafter(const Plan& plan);
  bool draw_batch(const Plan& plan, Batch& batch, Drafter* drafter, Acceptor* acceptor, Drawn& made,
                  const Progress& progress, std::int64_t before, std::int64_t all);
  void begin(const Plan& plan, Batch& batch);
  void sample_turn(const Plan& plan, Batch& batch);
  void judge_drafts(const Plan& plan, Batch& batch, Drafter& drafter, Acceptor& acceptor, Drawn& made);
  void feed(Batch& batch, std::int64_t first, std::int64_t last);

  DrawingBundle bundle_;
  OrtOptions options_;
  Order order_;
  Step step_;
  Sampler sampler_;
  Pixels pixels_;
  std::optional<Graph> condition_;
  std::optional<Step> draft_step_;
  std::map<std::string, std::unique_ptr<Acceptor>> acceptors_;  // by mode
  std::int64_t text_width_ = 0;
  std::vector<float> mixed_;  // logits of a diagonal
  std::atomic<bool> cancelled_ = false;
};

}  // namespace farthing::drawing
