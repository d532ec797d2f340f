#include "model_drafter.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "../engine.h"
#include "../sha256.h"

namespace farthing {
namespace {

constexpr double kMemory = 64;  // observations that a rate remembers, and drafts that the worth does

std::string vocabulary(const Bundle& bundle) {
  return std::to_string(bundle.vocab_size) + " ids, " +
         (bundle.tokenizer ? "tokenizer " + sha256_of(*bundle.tokenizer).substr(0, 12) : "no tokenizer");
}

std::unique_ptr<Engine> open_small(const Bundle& target, std::int64_t capacity, const std::filesystem::path& path,
                                   EngineOptions options) {
  const Bundle small = open_bundle(path, false);
  const std::string found = vocabulary(small), wanted = vocabulary(target);
  if (found != wanted) {
    refuse(Status::request, "vocabulary of draft bundle " + path.string(), found, wanted + ", the target's",
           "use a small model of the same family");
  }
  if (options.backend.capacity == 0) options.backend.capacity = std::min(small.max_positions, capacity);
  options.draft = {};
  options.text_only = true;
  return std::make_unique<Engine>(path, options);
}

}  // namespace

ModelDrafter::ModelDrafter(const Bundle& target, std::int64_t capacity, const std::filesystem::path& bundle,
                           EngineOptions options)
    : engine_(open_small(target, capacity, bundle, std::move(options))),
      worth_(std::numeric_limits<double>::infinity()) {
  if (engine_->capacity() < 4) {
    refuse(Status::request, "context of draft bundle " + bundle.string(), std::to_string(engine_->capacity()),
           "4 or more", "open the target with a longer context");
  }
  text_.reserve(static_cast<std::size_t>(std::max(capacity, engine_->capacity())) * 2);
  buckets_.reserve(static_cast<std::size_t>(engine_->capacity()));
  for (std::size_t i = 0; i < kBuckets; ++i) {
    rates_[i].mean = (static_cast<double>(i) + 0.5) / static_cast<double>(kBuckets);
  }
}

ModelDrafter::~ModelDrafter() = default;

double ModelDrafter::seconds() {
  sound_ = 0;
  return engine_->measure({1}, {0}, 3).seconds(1, 0);
}

void ModelDrafter::begin(std::span<const std::int32_t> tokens) {
  // The engine keeps its cache: the next turn of a conversation begins with the same tokens.
  text_.assign(tokens.begin(), tokens.end());
  sound_ = 0;
}

void ModelDrafter::observe(std::span<const std::int32_t> tokens) {
  text_.insert(text_.end(), tokens.begin(), tokens.end());
}

// Afterwards the engine's cache is the text, with room for `ahead` tokens, and its logits belong to the newest one.
void ModelDrafter::catch_up(std::int64_t ahead) {
  const auto capacity = static_cast<std::size_t>(engine_->capacity());
  if (text_.size() + static_cast<std::size_t>(ahead) > capacity) {
    // A longer text than the small model's context: it goes on with the newer half of what it can hold.
    text_.erase(text_.begin(), text_.end() - static_cast<std::ptrdiff_t>(std::min(text_.size(), capacity / 2)));
    sound_ = 0;
  }
  const auto& cached = engine_->tokens();
  // At least the newest token runs: its logits are needed.
  const std::size_t most = std::min(cached.size(), text_.size() - 1);
  sound_ = std::min(sound_, most);
  while (sound_ < most && cached[sound_] == text_[sound_]) ++sound_;
  engine_->rewind(static_cast<std::int64_t>(sound_));
  engine_->prefill(std::span<const std::int32_t>(text_).subspan(sound_));
  sound_ = text_.size();
}

void ModelDrafter::propose(const DraftLimits& limits, Draft& draft) {
  buckets_.clear();
  if (text_.empty()) return;
  const std::int64_t depth = std::min({limits.nodes, limits.depth, engine_->capacity() / 2});
  catch_up(depth);
  double reach = 1;
  for (std::int32_t node = 0; node < depth; ++node) {
    const auto logits = engine_->logits();
    const auto best = std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - *best);
    // One over the number of ids, or a draft of nothing if the logits are no numbers.
    if (!(sum >= 1)) return;
    const auto bucket = std::min(static_cast<std::size_t>(kBuckets / sum), kBuckets - 1);
    const double chance = rates_[bucket].mean;
    reach *= chance;
    if (reach < least_) return;
    const auto id = static_cast<std::int32_t>(best - logits.begin());
    buckets_.push_back(bucket);
    draft.add(id, node - 1, static_cast<float>(chance));
    if (node + 1 < depth) engine_->extend({&id, 1});
  }
}

void ModelDrafter::verified(const Draft&, std::span<const std::int32_t> nodes, std::span<const std::int32_t> path) {
  // Nodes behind the first wrong one were never asked about.
  const std::size_t judged = std::min(path.size() + 1, nodes.size());
  for (std::size_t i = 0; i < judged; ++i) {
    Rate& rate = rates_[buckets_[static_cast<std::size_t>(nodes[i])]];
    rate.weight = std::min(rate.weight + 1, kMemory);
    rate.mean += ((i < path.size() ? 1.0 : 0.0) - rate.mean) / rate.weight;
  }
  const auto brought = static_cast<double>(path.size());
  worth_ = std::isinf(worth_) ? std::max(brought, 1.0) : worth_ + (brought - worth_) / (kMemory / 4);
}

}  // namespace farthing
