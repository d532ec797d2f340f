#include "unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "utf8.h"

namespace farthing::tokenizer {
namespace {

#include "unicode_tables.inc"

// Characters that are alphabetic without being letters, letter numbers or marks: the circled and squared Latin letters.
constexpr PointRange kOtherAlphabetic[] = {
    {0x24B6, 0x24E9}, {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};

// Digits of Unicode 17, which Rust knows and the pattern engine of the reference does not.
constexpr PointRange kDigits17[] = {{0x11DE0, 0x11DE9}, {0x16FF4, 0x16FF6}};

template <typename Range, std::size_t n>
const Range* find_range(const Range (&table)[n], char32_t c) {
  const Range* found = std::lower_bound(table, table + n, c, [](const Range& r, char32_t v) { return r.last < v; });
  return found != table + n && found->first <= c ? found : nullptr;
}

// Two letters, as in "Nd"; from utf8proc, or from our table for what it may be too old to know.
const char* category(char32_t c) {
  const char* known = utf8proc_category_string(static_cast<utf8proc_int32_t>(c));
  if (std::strcmp(known, "Cn") != 0) return known;
  const CategoryRange* newer = find_range(kNewerCategories, c);
  return newer ? newer->category : known;
}

struct Mark {
  utf8proc_int32_t point;
  int combining_class;
};

// NFC of one stretch without frozen characters: decompose, sort each run of marks by class, compose.
// utf8proc's own ordering is quadratic in the length of a run (a megabyte of marks would take hours), hence ours.
class Composer {
 public:
  void add(char32_t c) {
    utf8proc_int32_t parts[8];
    int boundary = 0;
    const auto n =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 8,
                                static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE), &boundary);
    for (utf8proc_ssize_t i = 0; i < n && i < 8; ++i) {
      const int order = utf8proc_get_property(parts[i])->combining_class;
      if (order == 0) settle();
      if (order == 0)
        points_.push_back(parts[i]);
      else
        run_.push_back({parts[i], order});
    }
  }

  void finish(std::string& out) {
    settle();
    const auto n = utf8proc_normalize_utf32(points_.data(), static_cast<utf8proc_ssize_t>(points_.size()),
                                            static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
    for (utf8proc_ssize_t i = 0; i < n; ++i) put(static_cast<char32_t>(points_[static_cast<std::size_t>(i)]), out);
    points_.clear();
  }

 private:
  void settle() {
    std::stable_sort(run_.begin(), run_.end(),
                     [](const Mark& a, const Mark& b) { return a.combining_class < b.combining_class; });
    for (const Mark& mark : run_) points_.push_back(mark.point);
    run_.clear();
  }

  // A frozen character here was just composed from parts that the reference leaves apart.
  static void put(char32_t c, std::string& out) {
    if (!find_range(kFrozenInNfc, c)) return utf8_append(c, out);
    utf8proc_int32_t parts[8];
    int boundary = 0;
    const auto n =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 8,
                                static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE), &boundary);
    for (utf8proc_ssize_t i = 0; i < n && i < 8; ++i) utf8_append(static_cast<char32_t>(parts[i]), out);
  }

  std::vector<utf8proc_int32_t> points_;
  std::vector<Mark> run_;
};

}  // namespace

std::span<const CategoryRange> newer_categories() { return kNewerCategories; }

bool is_white_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_word(char32_t c) {
  if (c < 0x80) return c == '_' || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
  if (c == 0x200C || c == 0x200D) return true;
  const char* name = category(c);
  return name[0] == 'L' || name[0] == 'M' || std::strcmp(name, "Nd") == 0 || std::strcmp(name, "Nl") == 0 ||
         std::strcmp(name, "Pc") == 0 || find_range(kOtherAlphabetic, c);
}

bool is_numeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return category(c)[0] == 'N' || find_range(kDigits17, c);
}

bool trivially_nfc(std::string_view text) {
  // U+0300 is CC 80, and lead bytes order like code points.
  return std::none_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) >= 0xCC; });
}

void append_nfc(std::string_view text, std::string& out) {
  Composer composer;
  std::size_t copied = 0;  // everything before is in `out`
  for (std::size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) < 0xCC) {
      i += static_cast<std::size_t>(utf8_length(static_cast<unsigned char>(text[i])));
      continue;
    }
    // A stretch starts one character early: a mark may compose with an ASCII letter before it, never across that.
    std::size_t start = i;
    if (start > copied) {
      do {
        --start;
      } while ((static_cast<unsigned char>(text[start]) & 0xC0) == 0x80);
    }
    out.append(text.substr(copied, start - copied));
    std::size_t position = start;
    while (position < text.size()) {
      if (position > start && static_cast<unsigned char>(text[position]) < 0xCC) break;
      const char32_t c = utf8_next(text, position);
      if (find_range(kFrozenInNfc, c)) {
        composer.finish(out);
        utf8_append(c, out);
      } else {
        composer.add(c);
      }
    }
    composer.finish(out);
    i = copied = position;
  }
  out.append(text.substr(copied));
}

}  // namespace farthing::tokenizer
