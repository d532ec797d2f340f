// The steps a decoder is made of; see decoder.h.
#pragma once

#include <memory>
#include <string>

#include "decoder.h"
#include "pattern.h"

namespace farthing::tokenizer {

// Joins tokens with a space: what Hugging Face does without a decoder.
std::unique_ptr<DecodeStage> make_join_stage();

// Characters of byte-level BPE to bytes, bytes to text; malformed bytes become U+FFFD. Keeps an unfinished character.
std::unique_ptr<DecodeStage> make_byte_level_stage();

// Tokens <0x00> to <0xFF> to text. A run of them is either UTF-8 as a whole or one U+FFFD each, so a run is kept until
// another token ends it.
std::unique_ptr<DecodeStage> make_byte_fallback_stage();

// Removes up to `count` times `character` at the start of each token, or, when the tokens were fused before, of the
// text.
std::unique_ptr<DecodeStage> make_strip_stage(char32_t character, std::size_t count, bool fused);

std::unique_ptr<DecodeStage> make_replace_stage(const Pattern& pattern, const std::string& content);

// `mark` to space; dropped in the first token when `drop_first`.
std::unique_ptr<DecodeStage> make_metaspace_stage(const std::string& mark, bool drop_first);

}  // namespace farthing::tokenizer
