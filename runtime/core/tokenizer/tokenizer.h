// Text to token ids and back, exactly as the Hugging Face `tokenizers` library does it, from its tokenizer.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "error.h"

namespace farthing {

class StreamDecoder;

// A tokenizer as described by a tokenizer.json: byte-level BPE (GPT-2, SmolLM2, Llama 3, Qwen) and BPE in the manner of
// SentencePiece (Llama 2, Mistral). Immutable, cheap to copy, safe to share between threads.
//
//   const auto tokenizer = farthing::Tokenizer::from_file("tokenizer.json");
//   const std::vector<std::int32_t> ids = tokenizer.encode("Hello");
//   const std::string text = tokenizer.decode(ids);
class Tokenizer {
 public:
  // Reads a tokenizer.json. Throws TokenizerError for a damaged file, and for any component or option that this library
  // does not implement: nothing is ignored, since it might change the ids.
  static Tokenizer from_json(std::string_view json_text);
  static Tokenizer from_file(const std::filesystem::path& path);

  // Returns the ids of a text. Malformed UTF-8 is read as U+FFFD (as Python's errors="replace" does).
  // `add_special_tokens` adds what the post-processor puts around a text, such as a beginning-of-text token.
  // `parse_special` says whether special tokens written in the text are tokens (a rendered chat template) or mere
  // text (what a user typed).
  // Throws TokenizerError for a text above 1 GiB, for a character without token when the unknown token itself is
  // missing, and when a pattern backtracks beyond its limits.
  std::vector<std::int32_t> encode(std::string_view utf8, bool add_special_tokens = false,
                                   bool parse_special = true) const;

  // Returns the text of ids; bytes that are not UTF-8 come out as U+FFFD. Ids without a token are passed over, as in
  // the reference implementation. `skip_special` leaves out special tokens.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = true) const;

  // Number of tokens, added ones included.
  std::int32_t vocab_size() const;
  // The largest id plus one: the least number of rows an embedding must have. Above vocab_size() when ids have gaps.
  std::int32_t id_limit() const;

  std::optional<std::int32_t> token_to_id(std::string_view token) const;
  // The token as it stands in the vocabulary (byte-level tokens in their visible spelling).
  std::optional<std::string_view> id_to_token(std::int32_t id) const;
  bool is_special(std::int32_t id) const;

 private:
  friend class StreamDecoder;
  struct Parts;
  explicit Tokenizer(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}
  std::shared_ptr<const Parts> parts_;
};

// Decodes ids as they are generated. What it returns is final: the concatenation of all returned texts, flush included,
// equals Tokenizer::decode of all ids. Unfinished characters, and whatever a later token may still change, wait inside.
// For one thread at a time.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true);
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;
  ~StreamDecoder();

  std::string push(std::int32_t id);
  // The same, appending to a string of the caller: no allocation once that string and the decoder have warmed up.
  void push(std::int32_t id, std::string& out);
  // Ends the text: returns what was held back. The decoder is then ready for another text.
  std::string flush();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace farthing
