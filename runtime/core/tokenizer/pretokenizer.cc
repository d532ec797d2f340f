#include "pretokenizer.h"

#include "byte_level.h"
#include "error.h"
#include "pattern.h"
#include "split.h"
#include "unicode.h"
#include "utf8.h"

namespace farthing::tokenizer {
namespace {

// GPT-2's pattern, which ByteLevel applies when use_regex is set.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Cuts one span at every match of `regex`; positions are in the whole text, but the pattern sees the span alone.
void cut_by(const Regex& regex, const std::string& text, const Pieces::Span& span, bool invert,
            std::vector<Cut>& cuts) {
  cuts.clear();
  Matches matches(regex, std::string_view(text).substr(span.begin, span.end - span.begin));
  std::size_t done = span.begin;
  for (std::size_t begin, end; matches.next(begin, end);) {
    begin += span.begin;
    end += span.begin;
    if (done != begin) cuts.push_back({done, begin, invert});
    cuts.push_back({begin, end, !invert});
    done = end;
  }
  if (done != span.end) cuts.push_back({done, span.end, invert});
}

class Split final : public PreTokenizer {
 public:
  Split(Regex regex, SplitBehavior behavior, bool invert)
      : regex_(std::move(regex)), behavior_(behavior), invert_(invert) {}

  void apply(Pieces& pieces) const override {
    thread_local std::vector<Cut> cuts;
    for (const Pieces::Span& span : pieces.spans) {
      cut_by(regex_, pieces.text, span, invert_, cuts);
      add_cuts(cuts, behavior_, span.leads, pieces);
    }
    pieces.exchange_spans();
  }

 private:
  Regex regex_;
  SplitBehavior behavior_;
  bool invert_;
};

class Digits final : public PreTokenizer {
 public:
  explicit Digits(bool individual) : individual_(individual) {}

  void apply(Pieces& pieces) const override {
    for (const Pieces::Span& span : pieces.spans) {
      std::size_t start = span.begin;
      bool in_digits = false;
      for (std::size_t i = span.begin; i < span.end;) {
        const std::size_t here = i;
        const bool digit = is_numeric(utf8_next(pieces.text, i));
        if (here > start && (digit != in_digits || (digit && individual_))) {
          pieces.add(start, here, span.leads && start == span.begin);
          start = here;
        }
        in_digits = digit;
      }
      pieces.add(start, span.end, span.leads && start == span.begin);
    }
    pieces.exchange_spans();
  }

 private:
  bool individual_;
};

class ByteLevel final : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex)
      : add_prefix_space_(add_prefix_space),
        use_regex_(use_regex),
        regex_(Regex::from_pattern(kGpt2Pattern, "pre_tokenizer")) {}

  void apply(Pieces& pieces) const override {
    if (add_prefix_space_) add_prefix(pieces);
    if (use_regex_) {
      for (const Pieces::Span& span : pieces.spans) {
        Matches matches(regex_, std::string_view(pieces.text).substr(span.begin, span.end - span.begin));
        // The pattern matches everything, so the matches are the pieces.
        for (std::size_t begin, end; matches.next(begin, end);) {
          pieces.add(span.begin + begin, span.begin + end, span.leads && begin == 0);
        }
      }
      pieces.exchange_spans();
    }
    pieces.next_text.reserve(pieces.text.size() + pieces.text.size() / 2);
    for (const Pieces::Span& span : pieces.spans) {
      const std::size_t begin = pieces.next_text.size();
      append_byte_characters(std::string_view(pieces.text).substr(span.begin, span.end - span.begin), pieces.next_text);
      pieces.add(begin, pieces.next_text.size(), span.leads);
    }
    pieces.exchange();
  }

 private:
  static void add_prefix(Pieces& pieces) {
    for (const Pieces::Span& span : pieces.spans) {
      const std::size_t begin = pieces.next_text.size();
      if (pieces.text[span.begin] != ' ') pieces.next_text += ' ';
      pieces.next_text.append(pieces.text, span.begin, span.end - span.begin);
      pieces.add(begin, pieces.next_text.size(), span.leads);
    }
    pieces.exchange();
  }

  bool add_prefix_space_, use_regex_;
  Regex regex_;
};

class Metaspace final : public PreTokenizer {
 public:
  enum class Prepend { kAlways, kFirst, kNever };
  Metaspace(std::string mark, Prepend prepend, bool split) : mark_(std::move(mark)), prepend_(prepend), split_(split) {}

  void apply(Pieces& pieces) const override {
    for (const Pieces::Span& span : pieces.spans) {
      const std::string_view old = std::string_view(pieces.text).substr(span.begin, span.end - span.begin);
      const bool marked = old[0] == ' ' || old.substr(0, mark_.size()) == mark_;
      const bool wanted = prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && span.leads);
      std::size_t begin = pieces.next_text.size();
      const std::size_t first = begin;
      if (wanted && !marked) pieces.next_text += mark_;
      for (const char c : old) c == ' ' ? pieces.next_text += mark_ : pieces.next_text += c;
      if (split_) {
        // Every mark starts a piece.
        for (std::size_t at = pieces.next_text.find(mark_, begin + 1); at != std::string::npos;
             at = pieces.next_text.find(mark_, at + mark_.size())) {
          pieces.add(begin, at, span.leads && begin == first);
          begin = at;
        }
      }
      pieces.add(begin, pieces.next_text.size(), span.leads && begin == first);
    }
    pieces.exchange();
  }

 private:
  std::string mark_;
  Prepend prepend_;
  bool split_;
};

std::unique_ptr<const PreTokenizer> read_metaspace(const JsonNode& node) {
  node.only({"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"});
  const auto scheme = node.maybe("prepend_scheme");
  const std::string name = scheme ? scheme->text() : "always";
  Metaspace::Prepend prepend = Metaspace::Prepend::kAlways;
  if (name == "first")
    prepend = Metaspace::Prepend::kFirst;
  else if (name == "never")
    prepend = Metaspace::Prepend::kNever;
  else if (name != "always")
    scheme->wrong("always, first or never", kUsePython);
  if (!node.flag_or("add_prefix_space", true) && prepend != Metaspace::Prepend::kNever) {
    node.at("add_prefix_space")
        .wrong("true unless prepend_scheme is never", "write the file again with tokenizers >= 0.15");
  }
  const JsonNode replacement = node.at("replacement");
  replacement.character();
  return std::make_unique<Metaspace>(replacement.text(), prepend, node.flag_or("split", true));
}

void read(const JsonNode& node, int depth, PreTokenizers& out) {
  const std::string type = node.type();
  if (type == "Sequence") {
    if (depth > 8) node.wrong("at most eight Sequences in each other", "flatten them");
    node.only({"type", "pretokenizers"});
    for (const JsonNode& child : node.at("pretokenizers").items()) read(child, depth + 1, out);
  } else if (type == "ByteLevel") {
    node.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});  // trim_offsets does not touch the ids
    out.push_back(std::make_unique<ByteLevel>(node.at("add_prefix_space").flag(), node.flag_or("use_regex", true)));
  } else if (type == "Digits") {
    node.only({"type", "individual_digits"});
    out.push_back(std::make_unique<Digits>(node.at("individual_digits").flag()));
  } else if (type == "Metaspace") {
    out.push_back(read_metaspace(node));
  } else if (type == "Split") {
    node.only({"type", "pattern", "behavior", "invert"});
    out.push_back(std::make_unique<Split>(Pattern::read(node.at("pattern")).regex(),
                                          read_split_behavior(node.at("behavior")), node.at("invert").flag()));
  } else {
    node.at("type").wrong("ByteLevel, Digits, Metaspace, Split or Sequence", kUsePython);
  }
}

}  // namespace

PreTokenizers read_pre_tokenizers(const JsonNode& node) {
  PreTokenizers pre_tokenizers;
  read(node, 0, pre_tokenizers);
  return pre_tokenizers;
}

}  // namespace farthing::tokenizer
