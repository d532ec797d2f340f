// The one error type of the tokenizer, and the house sentence its messages are built with.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace farthing {

// A tokenizer.json that is damaged or asks for something not implemented, or a text that cannot be encoded with it.
class TokenizerError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace tokenizer {

// Throws TokenizerError with "<what> is <found>, expected <wanted>; <fix>".
[[noreturn]] inline void refuse(std::string_view what, std::string_view found, std::string_view wanted,
                                std::string_view fix) {
  std::string message;
  message.append(what).append(" is ").append(found).append(", expected ").append(wanted).append("; ").append(fix);
  throw TokenizerError(message);
}

// The usual remedy for a component that Hugging Face has and this library does not.
inline constexpr std::string_view kUsePython =
    "use the Python interface for this model, whose tokenizer is the Hugging Face library itself";

}  // namespace tokenizer
}  // namespace farthing
