// The byte <-> character table of byte-level BPE: every byte gets a visible character, as GPT-2 chose them.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace farthing::tokenizer {

// UTF-8 of the character that stands for each byte (one or two bytes long).
const std::array<std::string, 256>& byte_characters();

// The byte that a character stands for.
std::optional<unsigned char> byte_of_character(char32_t c);

// Appends `text` to `out`, each byte as its character.
void append_byte_characters(std::string_view text, std::string& out);

}  // namespace farthing::tokenizer
