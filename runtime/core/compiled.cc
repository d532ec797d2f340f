#include "compiled.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "error.h"
#include "sha256.h"
#include "tensors.h"

namespace farthing {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr std::uintmax_t kIndexLimit = 4u << 20;  // bytes; real ones are a few KB
constexpr const char* kFix = "delete the folder and run farthing compile again";

Json read_index(const fs::path& folder) {
  const fs::path path = folder / "index.json";
  if (fs::is_symlink(fs::symlink_status(path)) || !fs::is_regular_file(path) || fs::file_size(path) > kIndexLimit) {
    refuse(Status::bundle, path.string(), "missing, a link or too large", "an index.json", kFix);
  }
  std::ifstream stream(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  // The parser recurses.
  if (std::count_if(bytes.begin(), bytes.end(), [](char c) { return c == '[' || c == '{'; }) > 100000) {
    refuse(Status::bundle, path.string(), "nested too deeply", "an index of farthing's", kFix);
  }
  Json index = Json::parse(bytes, nullptr, false);
  if (index.is_discarded() || !index.is_object())
    refuse(Status::bundle, path.string(), "not JSON", "a JSON object", kFix);
  return index;
}

// Range of dimension 1 of tensor `name` in a profile; [1,1] when it is of fixed size there.
void rows_of(const Json& shapes, const std::string& name, std::int64_t& least, std::int64_t& most) {
  if (!shapes.contains(name)) return;
  const Json& range = shapes.at(name);
  least = range.at(0).at(1).get<std::int64_t>();
  most = range.at(2).at(1).get<std::int64_t>();
}

Compiled read(const fs::path& folder, const std::string& target) {
  try {
    const Json index = read_index(folder);
    if (index.at("format") != "farthing-compiled" || index.at("format_version") != 1 || index.at("target") != target) {
      refuse(Status::bundle, "format of " + (folder / "index.json").string(), index.at("format").dump().substr(0, 60),
             "farthing-compiled 1 for " + target, kFix);
    }
    const Json& key = index.at("key");
    // A bundle of another method has one graph of another name.
    const Json& graphs = index.at("graphs");
    const Json& graph = graphs.size() == 1 ? graphs.front() : graphs.at(tensors::kDecoder);
    Compiled made;
    made.folder = folder;
    made.target = target;
    const auto file = graph.at("file").get<std::string>();
    if (file.find('/') != std::string::npos || !index.at("files").contains(file)) {
      refuse(Status::bundle, "graph file in " + (folder / "index.json").string(), "not listed", "in 'files'", kFix);
    }
    made.file = folder / file;
    made.bundle = key.at("bundle").get<std::string>();
    made.version = key.at(target == "cpu" ? "onnxruntime" : "tensorrt").get<std::string>();
    made.kernels = key.value("kernels", std::string());
    if (key.contains("sm")) made.sm = key.at("sm").get<std::vector<std::int64_t>>();
    if (key.contains("plugin_abi") && !key.at("plugin_abi").is_null()) {
      made.plugin_abi = key.at("plugin_abi").get<std::int64_t>();
    }
    made.capacity = index.at("capacity").get<std::int64_t>();
    made.in_place = graph.value("in_place", true);
    for (const Json& profile : graph.at("profiles")) {
      CompiledProfile& p = made.profiles.emplace_back();
      p.name = profile.at("name").get<std::string>();
      rows_of(profile.at("shapes"), tensors::kInputIds, p.least_rows, p.most_rows);
      rows_of(profile.at("shapes"), tensors::kLogitRows, p.least_wanted, p.most_wanted);
    }
    return made;
  } catch (const Json::exception& error) {
    refuse(Status::bundle, (folder / "index.json").string(), std::string("malformed (") + error.what() + ")",
           "an index of farthing's", kFix);
  }
}

// "10.3.0.30" and "10.3.0" are one version: the fourth number is a build's.
std::string three(const std::string& version) {
  std::size_t end = 0;
  for (int dots = 0; end < version.size(); ++end) {
    if (version[end] == '.' && ++dots == 3) break;
  }
  return version.substr(0, end);
}

std::string list(const std::vector<std::int64_t>& numbers) {
  std::string text;
  for (const std::int64_t n : numbers) text += (text.empty() ? "" : ", ") + std::to_string(n);
  return text.empty() ? "none" : text;
}

// The first thing that does not fit: how far it got (more is nearer), and the sentence. No sentence: it fits.
struct Fit {
  int reached = 0;
  std::string what, found, wanted, fix;
};

Fit fit(const Compiled& c, const Bundle& bundle, const Machine& machine) {
  const std::string again = "run farthing compile --target " + c.target + " on this machine";
  const std::string where = " of " + c.folder.string();
  if (c.bundle != bundle.graph_sha256) {
    return {1, "graph" + where, c.bundle.substr(0, 12), bundle.graph_sha256.substr(0, 12) + " as in the bundle", again};
  }
  if (three(c.version) != three(machine.version)) {
    return {2, "TensorRT version" + where, c.version, machine.version + " as installed here", again};
  }
  if (c.plugin_abi && !machine.plugin_abi) {
    return {3, "plugin library", "not loaded", "one of ABI " + std::to_string(*c.plugin_abi) + where,
            "name libfarthing_tensorrt.so in FARTHING_PLUGINS"};
  }
  if (c.plugin_abi && *c.plugin_abi != *machine.plugin_abi) {
    return {3, "plugin ABI" + where, std::to_string(*c.plugin_abi),
            std::to_string(*machine.plugin_abi) + " as the plugin library here", again};
  }
  if (machine.capacity != 0 && machine.capacity != c.capacity) {
    return {4, "context" + where, std::to_string(c.capacity), std::to_string(machine.capacity) + " as asked for",
            "open with that context, or compile with --context " + std::to_string(machine.capacity)};
  }
  if (machine.sm && std::find(c.sm.begin(), c.sm.end(), *machine.sm) == c.sm.end()) {
    return {5, "compute capability" + where, list(c.sm), std::to_string(*machine.sm) + " as this device", again};
  }
  return {6, "", "", "", ""};
}

}  // namespace

std::vector<Compiled> list_compiled(const Bundle& bundle, const std::string& target) {
  std::vector<Compiled> all;
  const fs::path root = bundle.path / "compiled" / target;
  std::error_code ignored;
  std::vector<fs::path> folders;
  for (const auto& entry : fs::directory_iterator(root, ignored)) {
    if (entry.is_directory() && entry.path().filename().string()[0] != '.') folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end());
  for (const fs::path& folder : folders) all.push_back(read(folder, target));
  return all;
}

const Compiled& choose_compiled(const std::vector<Compiled>& all, const Bundle& bundle, const Machine& machine) {
  if (all.empty()) {
    refuse(Status::bundle, "compiled engines of " + bundle.path.string(), "none", "at least one",
           "run farthing compile --target tensorrt on this machine");
  }
  Fit nearest;
  for (const Compiled& c : all) {
    const Fit found = fit(c, bundle, machine);
    if (found.what.empty()) return c;
    if (found.reached > nearest.reached) nearest = found;
  }
  refuse(Status::bundle, nearest.what, nearest.found, nearest.wanted, nearest.fix);
}

void check_compiled(const Compiled& compiled) {
  try {
    const Json index = read_index(compiled.folder);
    for (const auto& [name, entry] : index.at("files").items()) {
      const fs::path path = compiled.folder / name;
      if (name.find('/') != std::string::npos || fs::is_symlink(fs::symlink_status(path)) ||
          !fs::is_regular_file(path)) {
        refuse(Status::bundle, path.string(), "missing or no plain file", "a file the index lists", kFix);
      }
      const auto size = fs::file_size(path), wanted = entry.at("bytes").get<std::uintmax_t>();
      if (size != wanted) {
        refuse(Status::bundle, "size of " + path.string(), std::to_string(size), std::to_string(wanted) + " bytes",
               kFix);
      }
      const std::string digest = sha256_of(path);
      if (digest != entry.at("sha256").get<std::string>()) {
        refuse(Status::bundle, "sha256 of " + path.string(), digest, entry.at("sha256").get<std::string>(), kFix);
      }
    }
  } catch (const Json::exception& error) {
    refuse(Status::bundle, (compiled.folder / "index.json").string(), std::string("malformed (") + error.what() + ")",
           "an index of farthing's", kFix);
  }
}

}  // namespace farthing
