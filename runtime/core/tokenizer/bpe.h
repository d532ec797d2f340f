// The model: byte-pair encoding of one piece of text.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "json_node.h"
#include "merge_table.h"
#include "vocabulary.h"

namespace farthing::tokenizer {

// Memory for one encoding, reused from piece to piece.
struct BpeScratch {
  struct Symbol {
    std::int32_t id;
    std::int32_t previous, next;  // indices; -1 at the ends, and next = kGone for a symbol merged away
  };
  struct Candidate {
    std::uint32_t rank;
    std::int32_t position, id;
  };
  std::vector<std::int32_t> ids;
  std::vector<Merge> merges;
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

class Bpe {
 public:
  // Reads the field `model`. Refuses other models than BPE, and options that change ids and are not implemented.
  explicit Bpe(const JsonNode& node);

  const Vocabulary& vocabulary() const { return *vocabulary_; }

  // Appends the ids of a piece (valid UTF-8, after pre-tokenization) to `out`. O(n log n) in its length.
  // Throws TokenizerError for an unknown character when `unk_token` is not in the vocabulary.
  void encode(std::string_view piece, BpeScratch& scratch, std::vector<std::int32_t>& out) const;

 private:
  void read_merges(const JsonNode& node);
  void index_characters();
  std::int32_t character_id(char32_t c) const;
  void initial_ids(std::string_view piece, std::vector<std::int32_t>& ids) const;
  bool append_bytes(std::string_view character, std::vector<std::int32_t>& ids) const;
  std::int32_t unknown_id() const;
  void merge_short(BpeScratch& scratch) const;
  void merge_long(BpeScratch& scratch) const;

  std::unique_ptr<const Vocabulary> vocabulary_;
  MergeTable merges_;
  std::optional<std::string> unk_token_;
  bool fuse_unk_, byte_fallback_, ignore_merges_;
  std::vector<std::int32_t> low_characters_;                    // id by code point below 0x3000, or -1
  std::unordered_map<char32_t, std::int32_t> high_characters_;  // the others
  std::array<std::int32_t, 256> byte_ids_;                      // of the tokens <0x00> to <0xFF>, or -1
};

}  // namespace farthing::tokenizer
