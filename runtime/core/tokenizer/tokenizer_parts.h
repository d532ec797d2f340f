// What a Tokenizer is made of; private to its implementation.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "added_tokens.h"
#include "bpe.h"
#include "decoder.h"
#include "normalizer.h"
#include "post_processor.h"
#include "pretokenizer.h"
#include "tokenizer.h"

namespace farthing {

struct Tokenizer::Parts {
  explicit Parts(const tokenizer::JsonNode& document);

  // The text of a token to show to the decoder; null for ids without a token and, when asked, special tokens.
  const std::string* decodable(std::int32_t id, bool skip_special) const {
    const std::string* text = token_text(id);
    return text && skip_special && is_special(id) ? nullptr : text;
  }
  const std::string* token_text(std::int32_t id) const {
    const auto added = added_texts.find(id);
    return added != added_texts.end() ? &added->second : bpe.vocabulary().text(id);
  }
  bool is_special(std::int32_t id) const {
    return id >= 0 && static_cast<std::size_t>(id) < special.size() && special[static_cast<std::size_t>(id)];
  }

  tokenizer::Bpe bpe;
  tokenizer::Normalizers normalizers;
  tokenizer::PreTokenizers pre_tokenizers;
  tokenizer::Frame frame;
  tokenizer::Decoder decoder;
  tokenizer::AddedTokenFinder plain_finder;                   // for tokens looked for in the text as it comes
  tokenizer::AddedTokenFinder normalized_finder;              // for those looked for after normalization
  std::unordered_map<std::int32_t, std::string> added_texts;  // as decoded: in their normalized form
  std::unordered_map<std::string, std::int32_t> added_ids;
  std::vector<bool> special;  // by id
  std::int32_t limit = 0;     // largest id + 1
  std::int32_t count = 0;     // tokens in all

 private:
  void add_tokens(const std::vector<tokenizer::AddedToken>& tokens);
};

}  // namespace farthing
