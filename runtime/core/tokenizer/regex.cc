#include "regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <new>

#include "error.h"
#include "regex_syntax.h"
#include "utf8.h"

namespace farthing::tokenizer {
namespace {

// One call may take this many backtracking steps: about a second. The patterns of real tokenizers need a few per
// character, and their longest matches are bounded by the text, so a megabyte stays far below.
constexpr std::uint32_t kMatchLimit = 20'000'000;
constexpr std::uint32_t kHeapLimitKiB = 256 * 1024;  // for backtracking points, when the JIT compiler is not there

// PCRE2 wants scratch memory for each running match; one per thread serves all patterns.
struct Scratch {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  Scratch() {
    if (!data || !context) throw std::bad_alloc();
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKiB);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
  }
};

Scratch& scratch() {
  thread_local Scratch instance;
  return instance;
}

std::string pcre_message(int code) {
  PCRE2_UCHAR buffer[160];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct Regex::Code {
  explicit Code(pcre2_code* compiled) : pcre(compiled) {}
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() { pcre2_code_free(pcre); }
  pcre2_code* pcre;
};

Regex Regex::from_pattern(std::string_view pattern, const std::string& where) {
  return compile(translate_regex(pattern, where), where);
}

Regex Regex::from_literal(std::string_view text, const std::string& where) {
  if (text.empty()) refuse("tokenizer.json: " + where, "empty", "some text to search for", "remove the component");
  return compile(escape_regex(text), where);
}

Regex Regex::compile(const std::string& pcre, const std::string& where) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);  // Ruby's only line end, whatever the library was built with
  // MULTILINE because ^ and $ are about lines in Ruby.
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pcre.data()), pcre.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, context);
  pcre2_compile_context_free(context);
  if (!code) {
    refuse("tokenizer.json: " + where, "a pattern that does not compile (" + pcre_message(error) + ")",
           "a regular expression", kUsePython);
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without executable memory the interpreter does the same, slower
  return Regex(std::make_shared<Code>(code));
}

bool Matches::next(std::size_t& begin, std::size_t& end) {
  Scratch& memory = scratch();
  while (position_ <= text_.size()) {
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text_.empty() ? "" : text_.data());
    const auto search = [&](std::uint32_t options) {
      // The text is known to be valid; checking it at every match would make the whole quadratic.
      return pcre2_match(code_->pcre, subject, text_.size(), position_, PCRE2_NO_UTF_CHECK | options, memory.data,
                         memory.context);
    };
    int found = search(0);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = search(PCRE2_NO_JIT);  // the interpreter's stack is on the heap
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      refuse("the search for a pattern of tokenizer.json", "stopped (" + pcre_message(found) + ")",
             "a match within the limits",
             "the pattern backtracks too much on this text, simplify it or split the text");
    }
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(memory.data);
    begin = span[0];
    end = span[1];
    if (begin == end && end == last_end_) {  // no match twice at one place
      if (position_ >= text_.size()) break;
      position_ += static_cast<std::size_t>(utf8_length(static_cast<unsigned char>(text_[position_])));
      continue;
    }
    position_ = last_end_ = end;
    return true;
  }
  position_ = text_.size() + 1;
  return false;
}

}  // namespace farthing::tokenizer
