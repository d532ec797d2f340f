// From a prompt with its images to a filled cache: what of it is there already, what runs, in which passes.
#include <algorithm>

#include "clock.h"
#include "engine.h"
#include "error.h"
#include "vision/vision_encoder.h"

namespace farthing {

Engine::Prepared::Prepared() = default;
Engine::Prepared::Prepared(Prepared&&) noexcept = default;
Engine::Prepared::~Prepared() = default;

void Engine::check_room(std::int64_t kept, std::int64_t rows, const char* about) const {
  if (rows > capacity() - kept) {
    refuse(Status::request, "prompt", std::to_string(kept) + " + " + about + std::to_string(rows) + " tokens",
           "at most " + std::to_string(capacity()), "shorten it, or open the bundle with a longer context");
  }
}

void Engine::check_images(std::span<const std::int32_t> ids, std::span<const ImageInput> images) const {
  if (!images.empty() && !bundle_.vision) {
    refuse(Status::request, "images", std::to_string(images.size()), "none", "this bundle reads text only");
  }
  if (!images.empty() && !backend_->takes_images()) {
    refuse(Status::request, "images", std::to_string(images.size()), "none with this backend",
           "open the bundle without tensorrt");
  }
  if (!bundle_.vision) return;
  const auto markers = static_cast<std::size_t>(std::count(ids.begin(), ids.end(), bundle_.vision->image_token_id));
  if (markers != images.size()) {
    refuse(Status::request, "image markers of the prompt", std::to_string(markers),
           std::to_string(images.size()) + ", one for each image",
           "write the marker, id " + std::to_string(bundle_.vision->image_token_id) + ", once for each image");
  }
  for (std::size_t i = 0; i < images.size(); ++i) {
    check_image(images[i].image, "image " + std::to_string(i));
    bundle_.vision->level_of(images[i].level);
  }
}

std::pair<std::size_t, std::int64_t> Engine::shared(std::span<const std::int32_t> ids,
                                                    std::span<const ImageInput> images,
                                                    std::span<const std::string> digests) const {
  std::size_t same = 0, image = 0;
  std::int64_t slot = 0;
  // Where images become weights, every row was made with the image, or with none.
  if (perceives() && perceived_ != (digests.empty() ? "" : digests[0])) return {0, 0};
  for (; same < ids.size() && slot < length(); ++same) {
    const ImageSpan* here = spans_.at(slot);
    if (!images.empty() && is_marker(ids[same])) {
      if (perceives()) here = spans_.empty() || spans_.all().front().begin != slot ? nullptr : &spans_.all().front();
      if (!here || here->digest != digests[image] || here->level != bundle_.vision->level_of(images[image].level).id) {
        break;
      }
      slot += here->rows;
      ++image;
    } else {
      const bool unseen = perceives() && !spans_.empty() && spans_.all().front().begin == slot && image == 0;
      if (here || unseen || tokens_[static_cast<std::size_t>(slot)] != ids[same]) break;
      ++slot;
    }
  }
  // At least one token is run again: its logits are needed. It is text: generate() has seen to that.
  if (same == ids.size()) --same, --slot;
  // What ends before an image that became weights, or at it, cannot be gone back to.
  if (perceives() && !spans_.empty() && slot <= spans_.all().front().begin) return {0, 0};
  return {same, slot};
}

Engine::Prepared Engine::prepare(std::span<const std::int32_t> ids, std::span<const ImageInput> images, bool reuse,
                                 bool resume) {
  Prepared made;
  std::vector<std::string> digests;
  const double start = wall_seconds();
  for (const ImageInput& each : images) digests.push_back(digest_of(each.image));
  made.keep = resume ? length() : 0;
  std::size_t same = 0;
  if (reuse) std::tie(same, made.keep) = shared(ids, images, digests);
  made.ids = ids.subspan(same);
  made.rows = static_cast<std::int64_t>(made.ids.size());
  if (images.empty()) {
    check_room(made.keep, made.rows);
    return made;
  }
  if (!vision_) {
    vision_ = std::make_unique<VisionEncoder>(bundle_, options_.backend,
                                              static_cast<std::size_t>(options_.image_cache_bytes));
  }
  const auto seen = static_cast<std::size_t>(std::count_if(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(same),
                                                           [this](std::int32_t id) { return is_marker(id); }));
  const bool late = made.keep > 0 && (perceived_ != digests[0] || !spans_.empty());
  if (perceives() && seen < images.size() && (images.size() > 1 || late)) {
    refuse(
        Status::request, "images",
        images.size() > 1 ? std::to_string(images.size()) + " in a prompt" : "one behind text that was read without it",
        "one for a whole sequence", "ask about each image on its own; reset between them");
  }
  for (std::size_t i = seen; i < images.size(); ++i) {
    const VisualRows& rows = made.images.emplace_back(
        vision_->encode(images[i].image, digests[i], bundle_.vision->level_of(images[i].level)));
    made.rows += rows.rows - 1;
    ++made.stats.images;
    ++(rows.cached ? made.stats.cache_hits : made.stats.encoded);
    made.stats.rows_before += rows.whole;
    // Now, lest many images fill the memory before.
    check_room(made.keep, made.rows, i + 1 < images.size() ? "at least " : "");
    if (cancelled_.load()) break;  // the loop that follows ends before it needs the others
  }
  made.stats.seconds = wall_seconds() - start;
  check_room(made.keep, made.rows);
  return made;
}

void Engine::prefill(std::span<const std::int32_t> ids, std::span<const ImageInput> images) {
  check_prompt(ids);
  check_images(ids, images);
  cancelled_.store(false);
  Prepared what = prepare(ids, images, false, true);
  append(what);
}

void Engine::append(Prepared& what) {
  rewind(what.keep);
  if (perceives() && !what.images.empty()) perceive(what.images[0]);  // before the first row
  std::span<const std::int32_t> ids = what.ids;
  for (const VisualRows& image : what.images) {
    const auto text = static_cast<std::size_t>(
        std::find_if(ids.begin(), ids.end(), [this](std::int32_t id) { return is_marker(id); }) - ids.begin());
    append_text(ids.first(text));
    if (!cancelled_.load()) append_image(image, what.stats);
    if (cancelled_.load()) {
      logits_ = {};
      return;
    }
    ids = ids.subspan(text + 1);
  }
  append_text(ids);
}

void Engine::append_text(std::span<const std::int32_t> ids) {
  while (!ids.empty()) {
    const auto rows = std::min(ids.size(), static_cast<std::size_t>(chunk()));
    pass(ids.first(rows), 1);
    ids = ids.subspan(rows);
    if (cancelled_.load() && !ids.empty()) {
      logits_ = {};
      return;
    }
  }
}

void Engine::perceive(const VisualRows& image) {
  perceived_.clear();
  backend_->perceive(image.changes);
  perceived_ = image.digest;
}

void Engine::forget_image() {
  if (perceived_.empty()) return;
  perceived_.clear();
  backend_->perceive({});
}

// The image is in the cache when its last pass has run; cancelled before that, nothing of it is.
void Engine::append_image(const VisualRows& image, VisionStats& stats) {
  const VisionSpec& spec = *bundle_.vision;
  if (spec.perceive) {
    spans_.add({length(), 0, 0, image.advance, image.digest, image.level});
    return;
  }
  const auto width = static_cast<std::size_t>(spec.hidden_size);
  const auto axes = image.positions.size() / static_cast<std::size_t>(image.rows);
  const std::int64_t begin = length(), position = begin + spans_.shift();
  ImageSpan span{begin, image.rows, 0, image.advance, image.digest, image.level};
  logits_ = {};
  // Rows do not depend on the passes they run in. A graph that chooses among them has to see all at once.
  const std::int64_t most = spec.prune_layer > 0 ? image.rows : chunk();
  std::vector<std::int64_t> positions;
  for (std::int64_t first = 0; first < image.rows; first += most) {
    const std::int64_t rows = std::min(most, image.rows - first);
    positions.clear();
    for (std::size_t axis = 0; axis < axes; ++axis) {
      const std::int64_t* from = image.positions.data() + static_cast<std::int64_t>(axis) * image.rows + first;
      for (std::int64_t i = 0; i < rows; ++i) positions.push_back(position + from[i]);
    }
    const std::span<const float> embeds(image.embeds.get() + static_cast<std::size_t>(first) * width,
                                        static_cast<std::size_t>(rows) * width);
    span.late += backend_->run_visual({image.step, embeds, positions, rows, begin + first, spans_.gap()});
    ++passes_;
    rows_ += rows;
    if (cancelled_.load() && first + rows < image.rows) return;
  }
  stats.rows_after += span.late;
  tokens_.insert(tokens_.end(), static_cast<std::size_t>(image.rows), spec.image_token_id);
  spans_.add(std::move(span));
}

}  // namespace farthing
