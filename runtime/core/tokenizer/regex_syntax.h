// From the regular expressions of tokenizer.json (Oniguruma, Ruby syntax) to PCRE2's.
#pragma once

#include <string>
#include <string_view>

namespace farthing::tokenizer {

// Returns a PCRE2 pattern (flags UTF, UCP, MULTILINE) that matches exactly what `pattern` matches in Oniguruma 16.
// Constructs on which the two engines differ, or on which nobody has checked, are refused: `where` names the field.
// White space and properties are spelled out, since the engines disagree on U+180E and on characters newer than PCRE2.
std::string translate_regex(std::string_view pattern, const std::string& where);

// Returns the pattern that matches `text` and nothing else.
std::string escape_regex(std::string_view text);

}  // namespace farthing::tokenizer
