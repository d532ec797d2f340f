#include "utf8.h"

#include <cstdint>
#include <cstring>

namespace farthing::tokenizer {
namespace {

// Length of the run of ASCII at the start, eight bytes at a time: most text is mostly ASCII.
std::size_t ascii_run(std::string_view text) {
  std::size_t i = 0;
  for (std::uint64_t word; i + sizeof word <= text.size(); i += sizeof word) {
    std::memcpy(&word, text.data() + i, sizeof word);
    if (word & 0x8080808080808080u) break;
  }
  while (i < text.size() && static_cast<unsigned char>(text[i]) < 0x80) ++i;
  return i;
}

}  // namespace

Utf8Step utf8_step(std::string_view text, std::size_t position) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[position + i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80) return {Utf8State::kValid, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8State::kMalformed, 1};
  const int length = utf8_length(lead);
  // The second byte is narrowed after E0, ED, F0 and F4: overlong forms, surrogates, beyond U+10FFFF.
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (int i = 1; i < length; ++i) {
    if (position + static_cast<std::size_t>(i) >= text.size()) return {Utf8State::kIncomplete, i};
    const unsigned char next = at(static_cast<std::size_t>(i));
    const bool fits = i == 1 ? next >= low && next <= high : (next & 0xC0) == 0x80;
    if (!fits) return {Utf8State::kMalformed, i};
  }
  return {Utf8State::kValid, length};
}

bool utf8_valid(std::string_view text) {
  for (std::size_t i = ascii_run(text); i < text.size();) {
    const Utf8Step step = utf8_step(text, i);
    if (step.state != Utf8State::kValid) return false;
    i += static_cast<std::size_t>(step.length);
    if (step.length == 1) i += ascii_run(text.substr(i));
  }
  return true;
}

void utf8_append_repaired(std::string_view text, std::string& out) {
  for (std::size_t i = 0; i < text.size();) {
    const Utf8Step step = utf8_step(text, i);
    const auto length = static_cast<std::size_t>(step.length);
    out.append(step.state == Utf8State::kValid ? text.substr(i, length) : kReplacement);
    i += length;
  }
}

void utf8_append(char32_t code_point, std::string& out) {
  const auto put = [&](char32_t value) { out.push_back(static_cast<char>(value)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

}  // namespace farthing::tokenizer
