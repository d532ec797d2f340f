// Post-processors: the special tokens put around a text when they are asked for.
#pragma once

#include <cstdint>
#include <vector>

#include "json_node.h"

namespace farthing::tokenizer {

// What goes before and after the ids of one text.
struct Frame {
  std::vector<std::int32_t> before, after;
};

// Reads the field `post_processor`: TemplateProcessing, ByteLevel (about offsets only) and Sequences of them. Templates
// for pairs of texts are read past, since there are no pairs here. Refuses other kinds by name.
Frame read_post_processor(const JsonNode& node);

}  // namespace farthing::tokenizer
