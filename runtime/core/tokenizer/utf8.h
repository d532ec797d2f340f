// UTF-8 on bytes: stepping, appending, and replacing what is malformed.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace farthing::tokenizer {

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

enum class Utf8State { kValid, kMalformed, kIncomplete };

// What stands at one position: a character, bytes that no continuation can save, or the start of a character whose end
// is not there yet. `length` is the number of bytes to step over (for malformed text the maximal subpart of the Unicode
// standard, table 3-7, which is also what Python's errors="replace" and Rust's from_utf8_lossy turn into one U+FFFD).
struct Utf8Step {
  Utf8State state;
  int length;
};
Utf8Step utf8_step(std::string_view text, std::size_t position);

bool utf8_valid(std::string_view text);

// Appends `text` to `out` with every malformed or unfinished sequence replaced by U+FFFD.
void utf8_append_repaired(std::string_view text, std::string& out);

void utf8_append(char32_t code_point, std::string& out);

// Bytes of the character with this first byte. The text must be valid.
inline int utf8_length(unsigned char lead) { return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4; }

// Decodes the character at `position` of a valid text and steps over it.
inline char32_t utf8_next(std::string_view text, std::size_t& position) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[position + i]); };
  const char32_t lead = byte(0);
  const int length = utf8_length(static_cast<unsigned char>(lead));
  char32_t code_point = lead;
  if (length == 2) {
    code_point = (lead & 0x1Fu) << 6 | (byte(1) & 0x3Fu);
  } else if (length == 3) {
    code_point = (lead & 0x0Fu) << 12 | (byte(1) & 0x3Fu) << 6 | (byte(2) & 0x3Fu);
  } else if (length == 4) {
    code_point = (lead & 0x07u) << 18 | (byte(1) & 0x3Fu) << 12 | (byte(2) & 0x3Fu) << 6 | (byte(3) & 0x3Fu);
  }
  position += static_cast<std::size_t>(length);
  return code_point;
}

}  // namespace farthing::tokenizer
