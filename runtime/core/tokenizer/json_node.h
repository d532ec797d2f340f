// Checked reading of tokenizer.json: every access names the field it failed on, and unknown fields are refused.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace farthing::tokenizer {

// A JSON value and the path that leads to it, such as `pre_tokenizer.pretokenizers[1].behavior`. Refers to the parsed
// document, which must outlive it. All accessors throw TokenizerError when the value has another type.
class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, std::string path) : value_(&value), path_(std::move(path)) {}

  const nlohmann::json& raw() const { return *value_; }
  const std::string& path() const { return path_; }

  JsonNode at(const char* key) const;                    // a required field of an object
  std::optional<JsonNode> maybe(const char* key) const;  // nothing when absent or null
  std::vector<JsonNode> items() const;                   // the elements of an array

  std::string text() const;
  bool flag() const;
  std::int64_t integer(std::int64_t low, std::int64_t high) const;
  char32_t character() const;  // a string of exactly one character

  bool flag_or(const char* key, bool otherwise) const;
  std::string type() const;  // the field "type", which tells components apart

  // Refuses any field that is not listed: an option we do not know could change the ids.
  void only(std::initializer_list<std::string_view> keys) const;

  // Throws "<path> is <this value, shortened>, expected <wanted>; <fix>".
  [[noreturn]] void wrong(std::string_view wanted, std::string_view fix) const;
  [[noreturn]] void wrong(std::string_view wanted) const;

 private:
  const nlohmann::json* value_;
  std::string path_;
};

}  // namespace farthing::tokenizer
