#include "byte_level.h"

#include "utf8.h"

namespace farthing::tokenizer {
namespace {

struct Tables {
  std::array<std::string, 256> characters;
  std::array<int, 512> bytes;  // indexed by code point; -1 where none

  // Printable Latin-1 stands for itself; the 68 others take U+0100 and up, in order.
  Tables() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      const char32_t c = printable ? static_cast<char32_t>(b) : next++;
      utf8_append(c, characters[static_cast<std::size_t>(b)]);
      bytes[c] = b;
    }
  }
};

const Tables& tables() {
  static const Tables instance;
  return instance;
}

}  // namespace

const std::array<std::string, 256>& byte_characters() { return tables().characters; }

std::optional<unsigned char> byte_of_character(char32_t c) {
  if (c >= tables().bytes.size() || tables().bytes[c] < 0) return std::nullopt;
  return static_cast<unsigned char>(tables().bytes[c]);
}

void append_byte_characters(std::string_view text, std::string& out) {
  const auto& characters = tables().characters;
  for (const char c : text) out.append(characters[static_cast<unsigned char>(c)]);
}

}  // namespace farthing::tokenizer
