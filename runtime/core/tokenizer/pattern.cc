#include "pattern.h"

#include "error.h"

namespace farthing::tokenizer {

Pattern Pattern::read(const JsonNode& node) {
  node.only({"String", "Regex"});
  if (node.raw().size() != 1) node.wrong("one of String and Regex", "keep one of the two");
  if (const auto literal = node.maybe("String")) {
    std::string text = literal->text();
    Regex regex = Regex::from_literal(text, literal->path());
    return {std::move(regex), std::move(text)};
  }
  const JsonNode pattern = node.at("Regex");
  return {Regex::from_pattern(pattern.text(), pattern.path()), ""};
}

bool Pattern::replace(std::string_view text, std::string_view content, std::string& out) const {
  std::size_t copied = 0;
  bool any = false;
  const auto put = [&](std::size_t begin, std::size_t end) {
    out.append(text.substr(copied, begin - copied)).append(content);
    copied = end;
    any = true;
  };
  if (!literal_.empty()) {
    for (std::size_t at = text.find(literal_); at != text.npos; at = text.find(literal_, at + literal_.size())) {
      put(at, at + literal_.size());
    }
  } else {
    Matches matches(regex_, text);
    for (std::size_t begin, end; matches.next(begin, end);) put(begin, end);
  }
  if (any) out.append(text.substr(copied));
  return any;
}

}  // namespace farthing::tokenizer
