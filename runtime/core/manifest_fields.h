// Fields of a manifest, read so that a missing or wrong one is named in the message.
#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "error.h"

namespace farthing::manifest {

using Json = nlohmann::json;

constexpr std::int64_t kCountLimit = std::int64_t{1} << 31;  // of any dimension, so that products of two fit 64 bits

[[noreturn]] inline void bad(const std::string& what, const std::string& found, const std::string& wanted,
                             const std::string& fix = "export the bundle again") {
  refuse(Status::bundle, what, found, wanted, fix);
}

// A field by path, with its place in the message when it is missing or of another kind.
inline const Json& at(const Json& json, const std::string& file, const std::string& dotted) {
  const Json* here = &json;
  std::size_t begin = 0;
  while (begin <= dotted.size()) {
    const std::size_t end = std::min(dotted.find('.', begin), dotted.size());
    const std::string key = dotted.substr(begin, end - begin);
    if (!here->is_object() || !here->contains(key)) bad("field " + dotted + " of " + file, "missing", "present");
    here = &(*here)[key];
    begin = end + 1;
  }
  return *here;
}

inline std::int64_t count(const Json& json, const std::string& file, const std::string& dotted,
                          std::int64_t least = 1) {
  const Json& value = at(json, file, dotted);
  if (!value.is_number_integer() || value.get<std::int64_t>() < least || value.get<std::int64_t>() > kCountLimit) {
    bad("field " + dotted + " of " + file, value.dump().substr(0, 60),
        "an integer of at least " + std::to_string(least));
  }
  return value.get<std::int64_t>();
}

inline std::string text(const Json& json, const std::string& file, const std::string& dotted) {
  const Json& value = at(json, file, dotted);
  if (!value.is_string()) bad("field " + dotted + " of " + file, value.dump().substr(0, 60), "a string");
  return value.get<std::string>();
}

}  // namespace farthing::manifest
