// Normalizers: what is done to a text before it is cut into pieces. NFC, Prepend, Replace and sequences of them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "json_node.h"

namespace farthing::tokenizer {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Changes `text` (valid UTF-8) in place; leaves an empty text empty.
  virtual void apply(std::string& text) const = 0;
};

using Normalizers = std::vector<std::unique_ptr<const Normalizer>>;

// Reads the field `normalizer` into a flat list, in order of application. Refuses other kinds by name.
Normalizers read_normalizers(const JsonNode& node);

}  // namespace farthing::tokenizer
