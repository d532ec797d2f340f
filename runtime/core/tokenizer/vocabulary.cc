#include "vocabulary.h"

#include <algorithm>

#include "error.h"

namespace farthing::tokenizer {

Vocabulary::Vocabulary(const JsonNode& node) {
  if (!node.raw().is_object()) node.wrong("an object of token: id");
  const auto& entries = node.raw();
  std::int64_t largest = -1;
  for (const auto& [token, id] : entries.items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > static_cast<std::uint64_t>(kLargestId)) {
      JsonNode(id, node.path() + "." + token).integer(0, kLargestId);  // throws
    }
    largest = std::max(largest, id.get<std::int64_t>());
  }
  texts_.resize(static_cast<std::size_t>(largest + 1));
  index_.reserve(entries.size());
  for (const auto& [token, id] : entries.items()) {
    auto& text = texts_[id.get<std::size_t>()];
    if (text)
      JsonNode(id, node.path() + "." + token).wrong("an id of its own", "remove one of the tokens with this id");
    text = token;
    index_.emplace(*text, id.get<std::int32_t>());
  }
}

}  // namespace farthing::tokenizer
