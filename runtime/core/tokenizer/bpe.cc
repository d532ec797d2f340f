#include "bpe.h"

#include <cstdio>

#include "error.h"
#include "utf8.h"

namespace farthing::tokenizer {
namespace {

// Below this code point (Latin to Hangul Jamo, and all characters of byte-level BPE) a table is worth its memory.
constexpr char32_t kTableEnd = 0x3000;

// Up to this many symbols, searching a flat array for the best pair beats a heap.
constexpr std::size_t kShortPiece = 40;

}  // namespace

Bpe::Bpe(const JsonNode& node) {
  // Files from before 2020 have no type; their model is recognised by its merges.
  if (const auto type = node.maybe("type"); type && type->text() != "BPE") type->wrong("BPE", kUsePython);
  node.only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
             "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (const auto dropout = node.maybe("dropout"); dropout && dropout->raw() != 0.0) {
    dropout->wrong("null", "dropout is for training: set it to null");
  }
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto value = node.maybe(affix);
    if (value && !value->text().empty()) value->wrong("null or empty", kUsePython);
  }
  if (const auto unk = node.maybe("unk_token")) unk_token_ = unk->text();
  fuse_unk_ = node.flag_or("fuse_unk", false);
  byte_fallback_ = node.flag_or("byte_fallback", false);
  ignore_merges_ = node.flag_or("ignore_merges", false);
  vocabulary_ = std::make_unique<Vocabulary>(node.at("vocab"));
  read_merges(node.at("merges"));
  index_characters();
}

void Bpe::read_merges(const JsonNode& node) {
  if (!node.raw().is_array()) node.wrong("a list of merges");
  merges_ = MergeTable(node.raw().size());
  std::uint32_t rank = 0;
  std::string joined;
  for (const auto& rule : node.raw()) {
    std::string_view left, right;
    const auto bad = [&](const char* wanted) {
      JsonNode(rule, node.path() + "[" + std::to_string(rank) + "]").wrong(wanted, "write the file again");
    };
    if (rule.is_string()) {
      const std::string_view line = rule.get_ref<const std::string&>();
      const std::size_t space = line.find(' ');
      if (space == line.npos || line.find(' ', space + 1) != line.npos) bad("two tokens with a space between");
      left = line.substr(0, space);
      right = line.substr(space + 1);
    } else if (rule.is_array() && rule.size() == 2 && rule[0].is_string() && rule[1].is_string()) {
      left = rule[0].get_ref<const std::string&>();
      right = rule[1].get_ref<const std::string&>();
    } else {
      bad("\"left right\" or [left, right]");
    }
    if (left.empty() || right.empty()) bad("two tokens that are not empty");
    joined.assign(left).append(right);
    const auto a = vocabulary_->find(left), b = vocabulary_->find(right), ab = vocabulary_->find(joined);
    if (!a || !b || !ab) bad("a pair whose parts and whole are in the vocabulary");
    merges_.set(*a, *b, {rank++, *ab});
  }
}

void Bpe::index_characters() {
  low_characters_.assign(kTableEnd, -1);
  byte_ids_.fill(-1);
  for (std::int32_t id = 0; id < vocabulary_->limit(); ++id) {
    const std::string* text = vocabulary_->text(id);
    if (!text || text->empty()) continue;
    if (static_cast<std::size_t>(utf8_length(static_cast<unsigned char>((*text)[0]))) != text->size()) continue;
    std::size_t position = 0;
    const char32_t c = utf8_next(*text, position);
    if (c < kTableEnd)
      low_characters_[c] = id;
    else
      high_characters_[c] = id;
  }
  for (unsigned b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", b);
    byte_ids_[b] = vocabulary_->find(name).value_or(-1);
  }
}

std::int32_t Bpe::character_id(char32_t c) const {
  if (c < kTableEnd) return low_characters_[c];
  const auto found = high_characters_.find(c);
  return found == high_characters_.end() ? -1 : found->second;
}

bool Bpe::append_bytes(std::string_view character, std::vector<std::int32_t>& ids) const {
  for (const char c : character) {
    if (byte_ids_[static_cast<unsigned char>(c)] < 0) return false;
  }
  for (const char c : character) ids.push_back(byte_ids_[static_cast<unsigned char>(c)]);
  return true;
}

std::int32_t Bpe::unknown_id() const {
  const auto id = vocabulary_->find(*unk_token_);
  if (!id) {
    refuse("unk_token \"" + *unk_token_ + "\"", "missing from the vocabulary",
           "there, since the text has a character without a token", "add it to model.vocab");
  }
  return *id;
}

// One id per character; bytes or the unknown token for characters without one. An unknown token waits until the next
// known character, so that its neighbours can fuse with it; byte tokens do not end the wait (nor do they in the
// reference implementation, which therefore puts them first).
void Bpe::initial_ids(std::string_view piece, std::vector<std::int32_t>& ids) const {
  ids.clear();
  std::int32_t waiting = -1;
  for (std::size_t i = 0; i < piece.size();) {
    const std::size_t start = i;
    const std::int32_t id = character_id(utf8_next(piece, i));
    if (id >= 0) {
      if (waiting >= 0) ids.push_back(waiting);
      waiting = -1;
      ids.push_back(id);
      continue;
    }
    if (byte_fallback_ && append_bytes(piece.substr(start, i - start), ids)) continue;
    if (!unk_token_) continue;  // dropped
    if (waiting >= 0 && fuse_unk_) continue;
    if (waiting >= 0) ids.push_back(waiting);
    waiting = unknown_id();
  }
  if (waiting >= 0) ids.push_back(waiting);
}

void Bpe::encode(std::string_view piece, BpeScratch& scratch, std::vector<std::int32_t>& out) const {
  if (ignore_merges_) {
    if (const auto whole = vocabulary_->find(piece)) {
      out.push_back(*whole);
      return;
    }
  }
  initial_ids(piece, scratch.ids);
  if (scratch.ids.size() > kShortPiece)
    merge_long(scratch);
  else if (scratch.ids.size() > 1)
    merge_short(scratch);
  out.insert(out.end(), scratch.ids.begin(), scratch.ids.end());
}

}  // namespace farthing::tokenizer
