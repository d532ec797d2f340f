// The `pattern` field of Split and Replace: a literal string or a regular expression.
#pragma once

#include <string>
#include <string_view>

#include "json_node.h"
#include "regex.h"

namespace farthing::tokenizer {

class Pattern {
 public:
  // Reads {"String": ...} or {"Regex": ...}.
  static Pattern read(const JsonNode& node);

  const Regex& regex() const { return regex_; }

  // Appends `text` to `out` with every match replaced by `content`. False, and nothing appended, without a match.
  bool replace(std::string_view text, std::string_view content, std::string& out) const;

 private:
  Pattern(Regex regex, std::string literal) : regex_(std::move(regex)), literal_(std::move(literal)) {}
  Regex regex_;
  std::string literal_;  // empty for a regular expression
};

}  // namespace farthing::tokenizer
