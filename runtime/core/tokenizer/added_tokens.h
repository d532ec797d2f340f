// Added tokens: strings such as <|im_end|> that are found in the text before anything else cuts it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "json_node.h"
#include "normalizer.h"

namespace farthing::tokenizer {

struct AddedToken {
  std::int32_t id;
  std::string content;
  bool single_word;  // only where no word character stands beside it
  bool lstrip;       // swallows white space before it
  bool rstrip;       // swallows white space after it
  bool normalized;   // looked for in the normalized text, itself normalized
  bool special;      // left out when decoding, and by encode with parse_special = false
};

// Reads the list `added_tokens`. Ids are checked later, against the vocabulary.
std::vector<AddedToken> read_added_tokens(const JsonNode& node);

// Finds added tokens in a text: leftmost first, longest first.
class AddedTokenFinder {
 public:
  struct Part {
    std::size_t begin, end;
    std::int32_t id;  // -1 for text between tokens
  };

  // Adds the token under the spelling it is looked for with. The first of equal spellings wins.
  void add(const AddedToken& token, std::string_view spelling);

  // Cuts `text` into tokens and what is between them, without gaps. With `parse_special` false, special tokens are
  // text.
  void split(std::string_view text, bool parse_special, std::vector<Part>& parts) const;

 private:
  struct Found {
    const AddedToken* token;
    std::size_t length;
  };
  Found longest_at(std::string_view text, std::size_t position) const;

  std::vector<AddedToken> tokens_;
  // A trie: the child of node n by byte b is children_[n * 256 + b]; node 0 is the root. The root's children are also
  // in first_, so that text without tokens is passed over quickly.
  std::unordered_map<std::uint64_t, std::uint32_t> children_;
  std::vector<std::int32_t> ends_{-1};  // per node, the index of the token that ends there
  std::array<bool, 256> first_{};
};

}  // namespace farthing::tokenizer
