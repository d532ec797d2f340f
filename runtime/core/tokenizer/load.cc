// Reading tokenizer.json into a Tokenizer.

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <unordered_set>

#include "tokenizer_parts.h"
#include "utf8.h"

namespace farthing {

using tokenizer::AddedToken;
using tokenizer::JsonNode;
using tokenizer::refuse;

namespace {

// Truncation and padding would change what encode returns; callers of this library cut and pad themselves.
const JsonNode& checked(const JsonNode& document) {
  document.only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "model",
                 "post_processor", "decoder"});
  if (const auto version = document.maybe("version"); version && version->text() != "1.0") {
    version->wrong("\"1.0\"", "update this library, or write the file with an older one");
  }
  if (const auto set = document.maybe("truncation"))
    set->wrong("null", "call no_truncation() and save the tokenizer again");
  if (const auto set = document.maybe("padding")) set->wrong("null", "call no_padding() and save the tokenizer again");
  return document;
}

}  // namespace

Tokenizer::Parts::Parts(const JsonNode& document) : bpe(checked(document).at("model")) {
  if (const auto node = document.maybe("normalizer")) normalizers = tokenizer::read_normalizers(*node);
  if (const auto node = document.maybe("pre_tokenizer")) pre_tokenizers = tokenizer::read_pre_tokenizers(*node);
  if (const auto node = document.maybe("post_processor")) frame = tokenizer::read_post_processor(*node);
  if (const auto node = document.maybe("decoder")) decoder = tokenizer::Decoder(*node);
  limit = bpe.vocabulary().limit();
  count = bpe.vocabulary().size();
  if (const auto node = document.maybe("added_tokens")) add_tokens(tokenizer::read_added_tokens(*node));
}

// The reference implementation does not believe the ids in this list: a token that the vocabulary has keeps its id
// there, any other gets the next free one. A file that says otherwise would mean one thing here and another in Python.
void Tokenizer::Parts::add_tokens(const std::vector<AddedToken>& tokens) {
  std::int32_t largest_added = -1;
  std::unordered_set<std::string> special_texts;
  for (const AddedToken& token : tokens) {
    const auto known = bpe.vocabulary().find(token.content);
    const std::int32_t expected = known ? *known : std::max(largest_added + 1, bpe.vocabulary().size());
    if (token.id != expected) {
      refuse("tokenizer.json: the id of added token \"" + token.content + "\"", std::to_string(token.id),
             std::to_string(expected) + ", which Hugging Face tokenizers gives it", "correct the id or the vocabulary");
    }
    largest_added = std::max(largest_added, token.id);
    limit = std::max(limit, token.id + 1);
    if (!known) ++count;
    added_ids[token.content] = token.id;
    if (token.special) special_texts.insert(token.content);
  }
  for (const bool special_first : {true, false}) {
    for (const AddedToken& token : tokens) {
      if (token.special != special_first) continue;
      std::string spelling = token.content;
      if (token.normalized) {
        for (const auto& normalizer : normalizers) normalizer->apply(spelling);
      }
      (token.normalized ? normalized_finder : plain_finder).add(token, spelling);
      added_texts[token.id] = std::move(spelling);
    }
  }
  // Whether decoding leaves a token out goes by its text as decoded, that is, normalized.
  special.resize(static_cast<std::size_t>(limit));
  for (const auto& [id, text] : added_texts) special[static_cast<std::size_t>(id)] = special_texts.count(text) > 0;
}

Tokenizer Tokenizer::from_json(std::string_view json_text) {
  nlohmann::json document;
  try {
    document = nlohmann::json::parse(json_text);
    return Tokenizer(std::make_shared<const Parts>(JsonNode(document, "")));
  } catch (const nlohmann::json::exception& error) {
    std::string reason;  // the parser quotes what it stumbled over
    tokenizer::utf8_append_repaired(error.what(), reason);
    refuse("tokenizer.json", "not readable (" + reason + ")", "a JSON document in UTF-8",
           "the file is damaged, fetch or write it again");
  }
}

Tokenizer Tokenizer::from_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  if (!file || !(content << file.rdbuf())) {
    refuse(path.string(), "not readable", "a tokenizer.json", "check the path and the permissions");
  }
  return from_json(std::move(content).str());
}

}  // namespace farthing
