// The vocabulary: token texts and their ids, both ways.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "json_node.h"

namespace farthing::tokenizer {

// Ids index arrays, so a damaged file must not make them gigabytes long. The largest vocabularies have about 2^18.
inline constexpr std::int32_t kLargestId = (1 << 24) - 1;

class Vocabulary {
 public:
  // Reads an object of token -> id. Refuses two tokens with one id.
  explicit Vocabulary(const JsonNode& node);
  Vocabulary(const Vocabulary&) = delete;  // the index refers into the texts
  Vocabulary& operator=(const Vocabulary&) = delete;

  std::optional<std::int32_t> find(std::string_view token) const {
    const auto found = index_.find(token);
    return found == index_.end() ? std::nullopt : std::optional(found->second);
  }
  // The text of an id, or null where the ids have a gap.
  const std::string* text(std::int32_t id) const {
    const auto i = static_cast<std::size_t>(id);
    return id >= 0 && i < texts_.size() && texts_[i] ? &*texts_[i] : nullptr;
  }
  std::int32_t size() const { return static_cast<std::int32_t>(index_.size()); }
  std::int32_t limit() const { return static_cast<std::int32_t>(texts_.size()); }  // largest id + 1

 private:
  std::vector<std::optional<std::string>> texts_;
  std::unordered_map<std::string_view, std::int32_t> index_;
};

}  // namespace farthing::tokenizer
