#include "added_tokens.h"

#include <algorithm>
#include <limits>
#include <unordered_set>

#include "error.h"
#include "unicode.h"
#include "utf8.h"

namespace farthing::tokenizer {
namespace {

// The character that ends at `position`; the text must be valid and position > 0.
char32_t character_before(std::string_view text, std::size_t position, std::size_t& start) {
  do {
    --position;
  } while ((static_cast<unsigned char>(text[position]) & 0xC0) == 0x80);
  start = position;
  return utf8_next(text, position);
}

bool inside_word(std::string_view text, std::size_t begin, std::size_t end) {
  std::size_t ignored = 0;
  if (begin > 0 && is_word(character_before(text, begin, ignored))) return true;
  return end < text.size() && is_word(utf8_next(text, end));
}

}  // namespace

std::vector<AddedToken> read_added_tokens(const JsonNode& node) {
  std::vector<AddedToken> tokens;
  std::unordered_set<std::string> seen;
  for (const JsonNode& entry : node.items()) {
    entry.only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    AddedToken token{static_cast<std::int32_t>(entry.at("id").integer(0, std::numeric_limits<std::int32_t>::max())),
                     entry.at("content").text(),
                     entry.at("single_word").flag(),
                     entry.at("lstrip").flag(),
                     entry.at("rstrip").flag(),
                     entry.at("normalized").flag(),
                     entry.at("special").flag()};
    if (token.content.empty()) entry.at("content").wrong("a text", "remove the entry");
    if (!seen.insert(token.content).second) {
      entry.at("content").wrong("a token that is not in the list yet", "keep one of the entries");
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

void AddedTokenFinder::add(const AddedToken& token, std::string_view spelling) {
  if (spelling.empty()) return;
  first_[static_cast<unsigned char>(spelling[0])] = true;
  std::uint32_t node = 0;
  for (const char c : spelling) {
    const std::uint64_t key = std::uint64_t{node} * 256 + static_cast<unsigned char>(c);
    const auto [child, fresh] = children_.try_emplace(key, static_cast<std::uint32_t>(ends_.size()));
    if (fresh) ends_.push_back(-1);
    node = child->second;
  }
  if (ends_[node] < 0) {
    ends_[node] = static_cast<std::int32_t>(tokens_.size());
    tokens_.push_back(token);
  }
}

AddedTokenFinder::Found AddedTokenFinder::longest_at(std::string_view text, std::size_t position) const {
  Found best{nullptr, 0};
  std::uint32_t node = 0;
  for (std::size_t i = position; i < text.size(); ++i) {
    const auto child = children_.find(std::uint64_t{node} * 256 + static_cast<unsigned char>(text[i]));
    if (child == children_.end()) break;
    node = child->second;
    if (ends_[node] >= 0) best = {&tokens_[static_cast<std::size_t>(ends_[node])], i + 1 - position};
  }
  return best;
}

void AddedTokenFinder::split(std::string_view text, bool parse_special, std::vector<Part>& parts) const {
  parts.clear();
  std::size_t done = 0;  // end of the last token, with the white space it swallowed
  for (std::size_t i = 0; !tokens_.empty() && i < text.size();) {
    if (!first_[static_cast<unsigned char>(text[i])]) {
      ++i;
      continue;
    }
    const auto [token, length] = longest_at(text, i);
    if (!token) {
      ++i;
      continue;
    }
    std::size_t begin = i;
    std::size_t end = i + length;
    // Matches do not overlap, and a match that is turned down still uses up its text. White space swallowed by rstrip
    // is not used up: a token made of spaces may match inside it once more.
    i = end;
    if ((token->special && !parse_special) || (token->single_word && inside_word(text, begin, end))) continue;
    if (token->lstrip) {
      for (std::size_t start = begin; begin > 0 && is_white_space(character_before(text, begin, start));) begin = start;
      begin = std::max(begin, done);
    }
    if (token->rstrip) {
      for (std::size_t next = end; next < text.size() && is_white_space(utf8_next(text, next));) end = next;
    }
    if (done < begin) parts.push_back({done, begin, -1});
    parts.push_back({begin, end, token->id});
    done = end;
  }
  if (done < text.size()) parts.push_back({done, text.size(), -1});
}

}  // namespace farthing::tokenizer
