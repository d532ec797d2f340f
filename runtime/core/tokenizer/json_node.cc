#include "json_node.h"

#include <algorithm>

#include "error.h"
#include "utf8.h"

namespace farthing::tokenizer {
namespace {

constexpr std::string_view kDamaged = "the file is damaged or not a Hugging Face tokenizer.json, write it again";

// A value as it stands in a message: short, and only scalars in full.
std::string shown(const nlohmann::json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list of " + std::to_string(value.size());
  std::string dump = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  return dump.size() > 60 ? dump.substr(0, 57) + "..." : dump;
}

}  // namespace

void JsonNode::wrong(std::string_view wanted, std::string_view fix) const {
  refuse("tokenizer.json: " + (path_.empty() ? "the document" : path_), shown(*value_), wanted, fix);
}

void JsonNode::wrong(std::string_view wanted) const { wrong(wanted, kDamaged); }

JsonNode JsonNode::at(const char* key) const {
  const std::string path = path_.empty() ? key : path_ + "." + key;
  if (!value_->is_object()) wrong("an object");
  const auto found = value_->find(key);
  if (found == value_->end()) refuse("tokenizer.json: " + path, "missing", "a value", kDamaged);
  return {*found, path};
}

std::optional<JsonNode> JsonNode::maybe(const char* key) const {
  if (!value_->is_object()) wrong("an object");
  const auto found = value_->find(key);
  if (found == value_->end() || found->is_null()) return std::nullopt;
  return JsonNode(*found, path_.empty() ? key : path_ + "." + key);
}

std::vector<JsonNode> JsonNode::items() const {
  if (!value_->is_array()) wrong("a list");
  std::vector<JsonNode> nodes;
  nodes.reserve(value_->size());
  for (const auto& element : *value_) nodes.emplace_back(element, path_ + "[" + std::to_string(nodes.size()) + "]");
  return nodes;
}

std::string JsonNode::text() const {
  if (!value_->is_string()) wrong("a string");
  return value_->get<std::string>();
}

bool JsonNode::flag() const {
  if (!value_->is_boolean()) wrong("true or false");
  return value_->get<bool>();
}

std::int64_t JsonNode::integer(std::int64_t low, std::int64_t high) const {
  const std::string wanted = "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
  if (!value_->is_number_integer()) wrong(wanted);
  if (value_->is_number_unsigned() && value_->get<std::uint64_t>() > static_cast<std::uint64_t>(high)) wrong(wanted);
  const auto number = value_->get<std::int64_t>();
  if (number < low || number > high) wrong(wanted);
  return number;
}

char32_t JsonNode::character() const {
  const std::string string = text();
  if (string.empty() || static_cast<std::size_t>(utf8_length(static_cast<unsigned char>(string[0]))) != string.size()) {
    wrong("one character");
  }
  std::size_t position = 0;
  return utf8_next(string, position);
}

bool JsonNode::flag_or(const char* key, bool otherwise) const {
  const auto node = maybe(key);
  return node ? node->flag() : otherwise;
}

std::string JsonNode::type() const { return at("type").text(); }

void JsonNode::only(std::initializer_list<std::string_view> keys) const {
  if (!value_->is_object()) wrong("an object");
  for (const auto& [key, value] : value_->items()) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
      JsonNode(value, path_.empty() ? key : path_ + "." + key).wrong("no such field", kUsePython);
    }
  }
}

}  // namespace farthing::tokenizer
