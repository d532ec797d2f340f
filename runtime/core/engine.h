// An open bundle and one sequence: prefill, decode, rewind, save. What both the C interface and Python stand on.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend.h"
#include "bundle.h"
#include "decoding.h"
#include "generation.h"
#include "ort_backend.h"
#include "sampler.h"
#include "speculation/cost_file.h"
#include "speculation/speculation.h"
#include "vision/image_spans.h"

namespace farthing {

class ModelDrafter;
class VisionEncoder;
struct VisualRows;

struct DraftOptions {
  // "none", a name of make_drafter, or "tuned": auto where `farthing tune` has measured this machine, else none.
  std::string name = "none";
  std::string table;   // path of a draft table; empty = none
  std::string bundle;  // of "model": folder of the small model's bundle
  SpeculationOptions how;
};

struct EngineOptions {
  OrtOptions backend;        // capacity 0 = min(max_positions, 2048)
  bool hashes = true;        // check every file's SHA-256 when opening
  bool tensorrt = false;     // run the engines that were compiled from the bundle; capacity 0 = theirs
  bool cuda_graphs = false;  // with tensorrt: replay passes of one row as a CUDA graph
  DraftOptions draft;
  std::int64_t image_cache_bytes = std::int64_t{256} << 20;  // of features of images seen lately; 0 = none are kept
  bool text_only = false;  // markers of images are ordinary tokens, as a drafter is shown them
};

// For one thread at a time, except cancel(). Any number of engines may be open on one bundle.
class Engine {
 public:
  // Throws Error.
  Engine(const std::filesystem::path& path, const EngineOptions& options);
  ~Engine();

  const Bundle& bundle() const { return bundle_; }
  std::int64_t capacity() const { return backend_->capacity(); }
  // The ids in the cache, the marker once for every row of an image; its size is the length.
  const std::vector<std::int32_t>& tokens() const { return tokens_; }

  void reset();
  // Forgets all but the first `length` tokens. O(1) with a cache, whose slots are overwritten later, and with a recurrent state inside
  // the last pass; farther back a state is made again from the last few tokens. Not into the rows of an image; where images become
  // weights, not to before it either, but for 0: it changed what stands there, too.
  void rewind(std::int64_t length);
  // Appends tokens in passes of at most `chunk` rows; afterwards logits() belongs to the last of them. Each image has its marker
  // (VisionSpec::image_token_id) once among them, in order.
  void prefill(std::span<const std::int32_t> ids, std::span<const ImageInput> images = {});
  // Appends at most chunk() tokens in one pass; float32 [ids.size(), V], the logits of each, valid until the next run. A verifier
  // that accepts a of them goes back by rewind(), which then runs nothing.
  std::span<const float> extend(std::span<const std::int32_t> ids);
  std::int64_t chunk() const { return backend_->chunk(); }
  // Float32 [V] of the last row; valid until the next call that runs the graph. Throws Error(request) when there is none.
  std::span<const float> logits() const;

  // Prefills the prompt and decodes. on_token gets each new id as soon as it is known; false ends the generation.
  // After warm-up the loop does not allocate. `images` as in prefill(); the prompt ends with text, whose logits are needed.
  Generation generate(std::span<const std::int32_t> prompt, const GenerateOptions& options,
                      const std::function<bool(std::int32_t)>& on_token = {}, std::span<const ImageInput> images = {});

  // Continues every prompt as generate() would, the texts exactly the same, at most `batch` of them in one pass: when one ends, the
  // next takes its place. Without images. `options`: one for all, or one for each prompt; reuse_prefix, resume and restart_window must be off. Drafts of
  // lookup, aded, and auto of these, run; others are refused. The text so far is forgotten. Throws Error(request).
  std::vector<Generation> generate_all(std::span<const std::vector<std::int32_t>> prompts,
                                       std::span<const GenerateOptions> options, std::int64_t batch,
                                       const std::function<bool(std::size_t, std::int32_t)>& on_token = {});

  // From now on generate() guesses ahead with a drafter of ours. Costs come from `farthing tune`, or are measured here, which takes
  // about 30 passes and forgets the text. Throws Error(request, bundle).
  void draft(const DraftOptions& options);
  // Costs of this machine, measured in about 100 passes and saved beside the bundle. Returns the file.
  std::filesystem::path tune();
  // The same with any drafter. `cost` should be of this device; without it every draft runs. Null: plain decoding.
  // Throws Error(request).
  void speculate(std::shared_ptr<Drafter> drafter, std::shared_ptr<Acceptor> acceptor,
                 const SpeculationOptions& options, PassCost cost);
  const Speculation* speculation() const { return speculation_.get(); }
  // Seconds of a pass for each number of rows and each past length: the least of `rounds` rounds over all of them in turn. Any text in
  // the cache is forgotten.
  PassCost measure(std::vector<std::int64_t> rows, std::vector<std::int64_t> past, int rounds);

  // Ends a generation on another thread after the pass it is in.
  void cancel() { cancelled_.store(true); }

  // The cache and its tokens as one file with a checksum. Loading refuses files of other models, truncated and edited ones.
  void save_state(const std::filesystem::path& path);
  void load_state(const std::filesystem::path& path);

 private:
  std::shared_ptr<ModelDrafter> open_small(const std::string& path) const;
  // What a call is going to append, everything about it known and checked.
  struct Prepared {
    std::span<const std::int32_t> ids;  // of the prompt, what is not in the cache
    std::int64_t keep = 0;              // length to go back to before
    std::int64_t rows = 0;              // that ids and images take
    std::vector<VisualRows> images;
    VisionStats stats;

    Prepared();
    Prepared(Prepared&&) noexcept;
    ~Prepared();
  };
  Prepared prepare(std::span<const std::int32_t> ids, std::span<const ImageInput> images, bool reuse, bool resume);
  void append(Prepared& what);
  void append_text(std::span<const std::int32_t> ids);
  void append_image(const VisualRows& image, VisionStats& stats);
  bool perceives() const { return bundle_.vision && bundle_.vision->perceive; }
  void perceive(const VisualRows& image);
  void forget_image();
  void check_images(std::span<const std::int32_t> ids, std::span<const ImageInput> images) const;
  bool is_marker(std::int32_t id) const { return bundle_.vision && id == bundle_.vision->image_token_id; }
  // `about`: "at least " where more rows will come.
  void check_room(std::int64_t kept, std::int64_t rows, const char* about = "") const;
  void check_generation(std::span<const std::int32_t> prompt, const GenerateOptions& options) const;
  void check_batch(std::span<const std::vector<std::int32_t>> prompts, std::span<const GenerateOptions> options,
                   std::int64_t batch) const;
  std::unique_ptr<Speculation> speculation_of(std::shared_ptr<Drafter> drafter, std::shared_ptr<Acceptor> acceptor,
                                              const SpeculationOptions& options, PassCost cost) const;
  // How many ids of the prompt, and how many slots of the cache, are the same from the beginning.
  std::pair<std::size_t, std::int64_t> shared(std::span<const std::int32_t> ids, std::span<const ImageInput> images,
                                              std::span<const std::string> digests) const;
  std::span<const float> run(const Pass& pass);
  // One pass whose last `wanted` rows get logits; returns them.
  std::span<const float> pass(std::span<const std::int32_t> ids, std::size_t wanted);
  void visit_state(std::int64_t length, std::int64_t gap, const std::function<void(std::span<std::byte>)>& visit);
  void restart(std::int32_t id, std::int64_t window);
  std::int64_t most_measured() const { return std::min(backend_->chunk(), capacity() / 2); }
  void check_prompt(std::span<const std::int32_t> ids) const;
  std::int64_t length() const { return static_cast<std::int64_t>(tokens_.size()); }

  Bundle bundle_;
  CostKey cost_key_;
  EngineOptions options_;
  std::unique_ptr<Backend> backend_;
  Sampler sampler_;
  std::vector<std::int32_t> tokens_;
  ImageSpans spans_;
  std::string perceived_;  // digest of the image that all rows of the cache were made with, where images become weights
  std::unique_ptr<VisionEncoder> vision_;  // made for the first image
  std::unique_ptr<Speculation> speculation_;
  // Makes the like for another text; empty where the drafter knows only one.
  std::function<std::unique_ptr<Speculation>()> another_;
  PassRows rows_of_pass_;
  std::span<const float> logits_;
  std::int64_t passes_ = 0, rows_ = 0;
  std::atomic<bool> cancelled_{false};
};

}  // namespace farthing
