#include "post_processor.h"

#include <string>

#include "error.h"
#include "vocabulary.h"

namespace farthing::tokenizer {
namespace {

std::vector<std::int32_t> special_ids(const JsonNode& table, const std::string& name) {
  const JsonNode entry = table.at(name.c_str());
  entry.only({"id", "ids", "tokens"});
  std::vector<std::int32_t> ids;
  for (const JsonNode& id : entry.at("ids").items())
    ids.push_back(static_cast<std::int32_t>(id.integer(0, kLargestId)));
  return ids;
}

Frame read_template(const JsonNode& node) {
  node.only({"type", "single", "pair", "special_tokens"});
  Frame frame;
  bool text_seen = false;
  for (const JsonNode& piece : node.at("single").items()) {
    piece.only({"SpecialToken", "Sequence"});
    if (const auto special = piece.maybe("SpecialToken")) {
      special->only({"id", "type_id"});
      const auto ids = special_ids(node.at("special_tokens"), special->at("id").text());
      auto& side = text_seen ? frame.after : frame.before;
      side.insert(side.end(), ids.begin(), ids.end());
      continue;
    }
    const JsonNode sequence = piece.at("Sequence");
    sequence.only({"id", "type_id"});
    if (sequence.at("id").text() != "A" || text_seen) sequence.at("id").wrong("A, and once", "correct the template");
    text_seen = true;
  }
  if (!text_seen) node.at("single").wrong("a template with the text (Sequence A) in it", "correct the template");
  return frame;
}

void read(const JsonNode& node, int depth, Frame& frame) {
  const std::string type = node.type();
  if (type == "Sequence") {
    if (depth > 8) node.wrong("at most eight Sequences in each other", "flatten them");
    node.only({"type", "processors"});
    for (const JsonNode& child : node.at("processors").items()) read(child, depth + 1, frame);
  } else if (type == "ByteLevel") {
    node.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  } else if (type == "TemplateProcessing") {
    // A later template goes around the earlier one.
    const Frame outer = read_template(node);
    frame.before.insert(frame.before.begin(), outer.before.begin(), outer.before.end());
    frame.after.insert(frame.after.end(), outer.after.begin(), outer.after.end());
  } else {
    node.at("type").wrong("TemplateProcessing, ByteLevel or Sequence", kUsePython);
  }
}

}  // namespace

Frame read_post_processor(const JsonNode& node) {
  Frame frame;
  read(node, 0, frame);
  return frame;
}

}  // namespace farthing::tokenizer
