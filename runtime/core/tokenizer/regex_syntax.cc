#include "regex_syntax.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <vector>

#include "error.h"
#include "unicode.h"
#include "utf8.h"

namespace farthing::tokenizer {
namespace {

// Class members: the White_Space property, and everything else.
constexpr std::string_view kSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kNotSpace =
    R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";

constexpr std::array<std::string_view, 31> kCategories = {
    "L",  "M",  "N",  "P",  "S",  "Z",  "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl",
    "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp"};

bool is_alnum(char c) { return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string hex(char32_t c) {
  char buffer[16];
  std::snprintf(buffer, sizeof buffer, "\\x{%x}", static_cast<unsigned>(c));
  return buffer;
}

// The members of a general category, to stand inside [...].
std::string category_members(std::string_view name) {
  std::string members = "\\p{" + std::string(name) + "}";
  for (const CategoryRange& range : newer_categories()) {
    if (std::string_view(range.category).substr(0, name.size()) == name) {
      members += hex(range.first) + (range.last > range.first ? "-" + hex(range.last) : "");
    }
  }
  return members;
}

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string run() {
    if (in_.substr(0, 4) == "(?i)") {  // for the whole pattern; elsewhere its reach differs between the engines
      caseless_.back() = true;
      out_ += "(?i)";
      i_ = 4;
    }
    while (i_ < in_.size()) step();
    return out_;
  }

 private:
  [[noreturn]] void refuse_part(const std::string& what) const {
    refuse("tokenizer.json: " + where_, "a pattern with " + what,
           "constructs that both regular expression engines share", kUsePython);
  }

  char peek(std::size_t ahead = 0) const { return i_ + ahead < in_.size() ? in_[i_ + ahead] : '\0'; }

  void step() {
    const char c = in_[i_];
    switch (c) {
      case '\\':
        return escape(false);
      case '[':
        return char_class();
      case '(':
        return open();
      case ')':
        if (caseless_.size() < 2) refuse_part("an unmatched )");
        caseless_.pop_back();
        break;
      case '{':
        return interval();
      default:
        break;
    }
    out_ += c;
    ++i_;
  }

  void open() {
    if (peek(1) != '?') {  // nothing may refer back to it, so it need not capture
      caseless_.push_back(caseless_.back());
      out_ += "(?:";
      ++i_;
      return;
    }
    for (const std::string_view known : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"}) {
      if (in_.substr(i_, known.size()) == known) {
        caseless_.push_back(known == "(?i:" || (known != "(?-i:" && caseless_.back()));
        out_ += known;
        i_ += known.size();
        return;
      }
    }
    refuse_part("the group " + std::string(in_.substr(i_, 4)));
  }

  // {n}, {n,}, {n,m}, {,m}. Ruby reads {n}? and {n,m}+ unlike Perl, so those are out.
  void interval() {
    std::size_t end = i_ + 1;
    std::string low, high;
    while (is_digit(peek(end - i_))) low += in_[end++];
    const bool comma = peek(end - i_) == ',';
    if (comma) ++end;
    while (is_digit(peek(end - i_))) high += in_[end++];
    if (peek(end - i_) != '}' || (low.empty() && high.empty())) {
      out_ += "\\{";
      ++i_;
      return;
    }
    if (low.size() > 5 || high.size() > 5) refuse_part("a repeat count above 65535");
    if (!low.empty() && !high.empty() && std::stoi(low) > std::stoi(high)) refuse_part("a reversed repeat count");
    i_ = end + 1;
    if (peek() == '+' || (peek() == '?' && !comma)) refuse_part("a possessive or lazy {n}");
    out_ += "{" + (low.empty() ? "0" : low) + (comma ? "," : "") + high + "}";
  }

  char32_t hex_digits(std::size_t least, std::size_t most) {
    char32_t value = 0;
    std::size_t n = 0;
    for (; n < most; ++n, ++i_) {
      const char c = peek();
      const char lower = static_cast<char>(c | 0x20);
      if (is_digit(c))
        value = value * 16 + static_cast<char32_t>(c - '0');
      else if (lower >= 'a' && lower <= 'f')
        value = value * 16 + static_cast<char32_t>(lower - 'a' + 10);
      else
        break;
    }
    if (n < least || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) refuse_part("a malformed \\x or \\u");
    return value;
  }

  // Emits members of a class, in brackets of their own when not inside some.
  void members(const std::string& list, bool in_class, bool negated) {
    if (in_class)
      out_ += list;
    else
      out_ += (negated ? "[^" : "[") + list + "]";
  }

  void escape(bool in_class) {
    ++i_;
    if (i_ >= in_.size()) refuse_part("a \\ at its end");
    const char c = in_[i_];
    if (static_cast<unsigned char>(c) >= 0x80) return;  // the character itself follows
    ++i_;
    if (!is_alnum(c)) {
      out_ += '\\';
      out_ += c;
      return;
    }
    switch (c) {
      case 's':
        return members(std::string(kSpace), in_class, false);
      case 'S':
        return members(std::string(kNotSpace), in_class, false);
      case 'd':
        return members(category_members("Nd"), in_class, false);
      case 'D':
        if (in_class) refuse_part("\\D in brackets");
        return members(category_members("Nd"), false, true);
      case 'p':
      case 'P':
        return property(c == 'P', in_class);
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'a':
      case 'e':
        out_ += '\\';
        out_ += c;
        return;
      case 'v':
        out_ += "\\x{b}";
        return;  // one character in Ruby, a class in PCRE2
      case 'u':
        out_ += hex(hex_digits(4, 4));
        return;
      case 'x':
        return hex_escape();
      case 'A':
      case 'z':
        if (in_class) break;
        out_ += '\\';
        out_ += c;
        return;
      default:
        break;
    }
    refuse_part(std::string("\\") + c + (in_class ? " in brackets" : ""));
  }

  void hex_escape() {
    if (peek() == '{') {
      ++i_;
      const char32_t value = hex_digits(1, 6);
      if (peek() != '}') refuse_part("a malformed \\x{}");
      ++i_;
      out_ += hex(value);
      return;
    }
    const char32_t value = hex_digits(1, 2);
    if (value >= 0x80) refuse_part("\\x80 or above, which is a byte and not a character");
    out_ += hex(value);
  }

  void property(bool negated, bool in_class) {
    const std::size_t end = in_.find('}', i_);
    if (peek() != '{' || end == std::string_view::npos) refuse_part("\\p without {}");
    const std::string_view name = in_.substr(i_ + 1, end - i_ - 1);
    if (std::find(kCategories.begin(), kCategories.end(), name) == kCategories.end()) {
      refuse_part("the property \\p{" + std::string(name.substr(0, 40)) + "}");
    }
    if (caseless_.back()) refuse_part("a property inside (?i:)");
    if (negated && in_class) refuse_part("\\P in brackets");
    i_ = end + 1;
    members(category_members(name), in_class, negated);
  }

  void char_class() {
    out_ += in_[i_++];
    if (peek() == '^') out_ += in_[i_++];
    if (peek() == ']') refuse_part("an empty []");
    while (peek() != ']') {
      if (i_ >= in_.size()) refuse_part("an unclosed [");
      if (peek() == '[') refuse_part("[ inside brackets");
      if (peek() == '&' && peek(1) == '&') refuse_part("&& inside brackets");
      if (peek() == '\\') {
        escape(true);
      } else {
        out_ += in_[i_++];
      }
    }
    out_ += in_[i_++];
  }

  std::string_view in_;
  const std::string& where_;
  std::size_t i_ = 0;
  std::string out_;
  std::vector<bool> caseless_{false};  // of the enclosing groups, innermost last
};

}  // namespace

std::string translate_regex(std::string_view pattern, const std::string& where) {
  if (pattern.find('\0') != std::string_view::npos) {
    refuse("tokenizer.json: " + where, "a pattern with a NUL", "a pattern of characters", kUsePython);
  }
  return Translator(pattern, where).run();
}

std::string escape_regex(std::string_view text) {
  std::string pattern;
  for (std::size_t i = 0; i < text.size();) pattern += hex(utf8_next(text, i));
  return pattern;
}

}  // namespace farthing::tokenizer
