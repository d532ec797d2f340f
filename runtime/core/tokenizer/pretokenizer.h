// Pre-tokenizers: cutting a text into the pieces that BPE never merges across, and rewriting those pieces.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "json_node.h"

namespace farthing::tokenizer {

// A text and the pieces it is cut into, in order. Steps replace both. Kept between calls to reuse its memory.
struct Pieces {
  struct Span {
    std::size_t begin, end;  // bytes of `text`; never empty
    bool leads;              // stands at the very start of the text given to encode
  };
  std::string text;
  std::vector<Span> spans;

  // Where a step builds its result, before exchanging it with the above.
  std::string next_text;
  std::vector<Span> next_spans;

  void add(std::size_t begin, std::size_t end, bool leads) {
    if (begin < end) next_spans.push_back({begin, end, leads});
  }
  void exchange_spans() {
    spans.swap(next_spans);
    next_spans.clear();
  }
  void exchange() {
    exchange_spans();
    text.swap(next_text);
    next_text.clear();
  }
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(Pieces& pieces) const = 0;
};

using PreTokenizers = std::vector<std::unique_ptr<const PreTokenizer>>;

// Reads the field `pre_tokenizer` into a flat list, in order: ByteLevel, Digits, Metaspace, Split and Sequences of
// them. Refuses other kinds by name.
PreTokenizers read_pre_tokenizers(const JsonNode& node);

}  // namespace farthing::tokenizer
