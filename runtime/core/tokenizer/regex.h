// Regular expressions over valid UTF-8: PCRE2 behind the iteration rules of the reference implementation.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace farthing::tokenizer {

// A compiled pattern; immutable, shared between threads.
class Regex {
 public:
  // `pattern` in the syntax of tokenizer.json. Throws TokenizerError naming `where`.
  static Regex from_pattern(std::string_view pattern, const std::string& where);
  static Regex from_literal(std::string_view text, const std::string& where);

  struct Code;  // owns the compiled pattern
  const Code& code() const { return *code_; }

 private:
  explicit Regex(std::shared_ptr<const Code> code) : code_(std::move(code)) {}
  static Regex compile(const std::string& pcre, const std::string& where);
  std::shared_ptr<const Code> code_;
};

// The successive matches in one text. Neither the pattern nor the text is copied.
class Matches {
 public:
  Matches(const Regex& regex, std::string_view text) : code_(&regex.code()), text_(text) {}

  // Steps to the next match. An empty match right after the last match is skipped. Throws TokenizerError when the
  // pattern backtracks beyond the limits (steps, memory): a hostile pattern must not hang or exhaust the host.
  bool next(std::size_t& begin, std::size_t& end);

 private:
  const Regex::Code* code_;
  std::string_view text_;
  std::size_t position_ = 0;
  std::size_t last_end_ = static_cast<std::size_t>(-1);
};

}  // namespace farthing::tokenizer
