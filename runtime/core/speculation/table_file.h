// A file of tri-grams counted from texts, mapped into memory: what ADED knows before it has seen a text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "trigram_table.h"

namespace farthing {

// Layout, little-endian, written by calibration/draft_table: Header; uint64 keys[pairs], first token in the high half, rising;
// Successors[pairs] with probabilities for scores; SHA-256 of all of it as 64 hex characters. 108 bytes a pair, pages of the file, shared
// between processes; beside them 4 bytes a token of the vocabulary in memory. The file must not be changed while it is open.
class TableFile {
 public:
  // Checks everything at once, so that a search needs no checks. `tokenizer`: SHA-256 of the bundle's tokenizer.json. Throws Error(request)
  // for a file that cannot be read, was truncated or edited, is of another version, tokenizer or vocabulary.
  TableFile(const std::filesystem::path& path, std::int64_t vocab_size, const std::string& tokenizer);
  ~TableFile();
  TableFile(const TableFile&) = delete;
  TableFile& operator=(const TableFile&) = delete;

  const Successors* find(std::int32_t a, std::int32_t b) const;
  std::size_t pairs() const { return pairs_; }
  std::size_t bytes() const { return size_ + first_.capacity() * sizeof(std::uint32_t); }  // mapped and in memory

 private:
  void check(const std::filesystem::path& path, std::int64_t vocab_size, const std::string& tokenizer);
  void index(const std::string& file, std::int64_t vocab_size);

  const unsigned char* data_ = nullptr;
  std::size_t size_ = 0, pairs_ = 0;
  const std::uint64_t* keys_ = nullptr;
  const Successors* successors_ = nullptr;
  std::vector<std::uint32_t> first_;  // of the pairs that begin with a token
};

}  // namespace farthing
