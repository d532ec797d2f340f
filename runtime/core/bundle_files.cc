#include "bundle_files.h"

#include <fstream>
#include <regex>

#include "error.h"
#include "sha256.h"

namespace farthing {
namespace {

using manifest::at, manifest::bad, manifest::count, manifest::text, manifest::Json;
namespace fs = std::filesystem;

constexpr std::int64_t kFormatVersion = 1;
constexpr std::uintmax_t kManifestLimit = 16u << 20;  // bytes; real ones are tens of KB

// No absolute paths, no "..", no dot-files, no backslashes: what the manifest's schema allows.
void check_relative(const std::string& relative, const std::string& file) {
  static const std::regex allowed("[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*");
  if (relative.size() > 1024 || !std::regex_match(relative, allowed)) {
    bad("path '" + relative.substr(0, 80) + "' in " + file, "not allowed", "a relative path inside the bundle");
  }
}

void check_file(const fs::path& root, const std::string& relative, const Json& entry, bool hashes) {
  const std::string manifest = (root / "manifest.json").string();
  check_relative(relative, manifest);
  fs::path path = root;
  for (const fs::path& part : fs::path(relative)) {
    path /= part;
    if (fs::is_symlink(fs::symlink_status(path))) {
      bad(path.string(), "a symbolic link", "a plain file inside the bundle", "copy the file it points to");
    }
  }
  if (!fs::is_regular_file(path)) bad(path.string(), "missing", "a file the manifest lists", "copy the bundle again");
  if (!entry.is_object() || !entry.contains("bytes") || !entry["bytes"].is_number_unsigned() ||
      !entry.contains("sha256") || !entry["sha256"].is_string()) {
    bad("entry files/" + relative + " of " + manifest, "malformed", "sha256 and bytes");
  }
  const auto size = fs::file_size(path), wanted = entry["bytes"].get<std::uintmax_t>();
  if (size != wanted) {
    bad("size of " + path.string(), std::to_string(size) + " bytes", std::to_string(wanted) + " bytes",
        "copy the bundle again");
  }
  if (hashes) {
    const std::string digest = sha256_of(path);
    if (digest != entry["sha256"].get<std::string>()) {
      bad("sha256 of " + path.string(), digest, entry["sha256"].get<std::string>(),
          "the file was changed; copy or export the bundle again");
    }
  }
}

}  // namespace

Json read_manifest(const fs::path& root) {
  const fs::path path = root / "manifest.json";
  if (!fs::is_directory(root))
    bad("bundle " + root.string(), "not a folder", "a folder made by farthing export", "check the path");
  if (fs::is_symlink(fs::symlink_status(path)) || !fs::is_regular_file(path)) {
    bad(path.string(), "missing", "a manifest.json", "check the path");
  }
  if (fs::file_size(path) > kManifestLimit) bad("size of " + path.string(), "above 16 MiB", "a manifest of farthing's");
  std::ifstream stream(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  // The parser recurses: refuse absurd nesting before it does.
  std::size_t depth = 0;
  for (const char c : bytes) {
    depth += c == '{' || c == '[' ? 1 : 0;
    depth -= (c == '}' || c == ']') && depth > 0 ? 1 : 0;
    if (depth > 200) bad(path.string(), "nested too deeply", "a manifest of farthing's");
  }
  Json manifest = Json::parse(bytes, nullptr, false);
  if (manifest.is_discarded()) bad(path.string(), "not JSON", "a JSON object");
  if (text(manifest, path.string(), "format") != "farthing-bundle") {
    bad("field format of " + path.string(), "something else", "'farthing-bundle'", "this is not a farthing bundle");
  }
  const std::int64_t version = count(manifest, path.string(), "format_version", 0);
  if (version != kFormatVersion) {
    bad("format_version of " + path.string(), std::to_string(version), std::to_string(kFormatVersion),
        version > kFormatVersion ? "update farthing" : "export the bundle again");
  }
  return manifest;
}

const Json& check_files(const Json& manifest, const fs::path& root, bool hashes) {
  const std::string file = (root / "manifest.json").string();
  const Json& files = at(manifest, file, "files");
  if (!files.is_object()) bad("field files of " + file, "no object", "an object");
  for (const auto& [relative, entry] : files.items()) check_file(root, relative, entry, hashes);
  return files;
}

}  // namespace farthing
