// Character classes as the reference implementation sees them, whatever Unicode version our libraries carry.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace farthing::tokenizer {

struct PointRange {
  char32_t first, last;  // inclusive
};

struct CategoryRange {
  char32_t first, last;  // inclusive
  char category[3];      // general category such as "Lo"
};

// Categories of characters newer than Unicode 14, for the regular expressions.
std::span<const CategoryRange> newer_categories();

bool is_white_space(char32_t c);  // the White_Space property: Rust's char::is_whitespace and \s
bool is_word(char32_t c);         // Rust's \w: Alphabetic, M, Nd, Pc, Join_Control
bool is_numeric(char32_t c);      // Rust's char::is_numeric: Nd, Nl, No

// True when the text is its own NFC beyond doubt: nothing below U+0300 is changed by composition.
bool trivially_nfc(std::string_view text);

// Appends the NFC of valid UTF-8 `text` to `out`. Linear but for the sorting of runs of combining marks.
void append_nfc(std::string_view text, std::string& out);

}  // namespace farthing::tokenizer
