#include "cost_file.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "../error.h"
#include "../sha256.h"

namespace farthing {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kFormat = "farthing-costs";
constexpr int kVersion = 1;
constexpr std::uintmax_t kLimit = 1u << 20;  // bytes; real ones are a few KB
constexpr const char* kFix = "delete the file, or run farthing tune again";

Json described(const CostKey& key) {
  return {{"bundle", key.bundle}, {"device", key.device}, {"threads", key.threads}, {"kernels", key.kernels}};
}

fs::path path_of(const Bundle& bundle, const CostKey& key) {
  const std::string text = described(key).dump();
  Sha256 digest;
  digest.update(text.data(), text.size());
  return bundle.path / "compiled" / "costs" / (digest.hex().substr(0, 16) + ".json");
}

std::string first_line(const char* path) {
  std::ifstream stream(path);
  std::string line;
  std::getline(stream, line, '\0');
  return line.substr(0, line.find('\n'));
}

}  // namespace

std::string device_name() {
  std::ifstream cpus("/proc/cpuinfo");
  for (std::string line; std::getline(cpus, line);) {
    if (line.rfind("model name", 0) == 0 && line.find(": ") != std::string::npos) {
      return line.substr(line.find(": ") + 2);
    }
  }
  const std::string board = first_line("/proc/device-tree/model");
  return board.empty() ? "unknown" : board;
}

CostKey cost_key(const Bundle& bundle, int threads, bool kernels) {
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return {bundle.graph_sha256, device_name(), threads == 0 ? cores : threads, kernels};
}

std::optional<PassCost> load_cost(const Bundle& bundle, const CostKey& key) {
  const fs::path path = path_of(bundle, key);
  std::error_code none;
  if (!fs::exists(fs::symlink_status(path, none))) return std::nullopt;
  if (fs::is_symlink(fs::symlink_status(path)) || !fs::is_regular_file(path) || fs::file_size(path) > kLimit) {
    refuse(Status::bundle, path.string(), "a link or too large", "a file of farthing tune", kFix);
  }
  std::ifstream stream(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  // The parser recurses.
  if (std::count_if(bytes.begin(), bytes.end(), [](char c) { return c == '[' || c == '{'; }) > 10000) {
    refuse(Status::bundle, path.string(), "nested too deeply", "a file of farthing tune", kFix);
  }
  try {
    const Json found = Json::parse(bytes);
    if (found.at("format") != kFormat || found.at("format_version") != kVersion || found.at("key") != described(key)) {
      refuse(Status::bundle, "format or key of " + path.string(), found.at("format").dump().substr(0, 60),
             std::string(kFormat) + " 1 of this bundle and machine", kFix);
    }
    std::vector<double> seconds;
    for (const Json& line : found.at("seconds")) {
      for (const Json& value : line) seconds.push_back(value.get<double>());
    }
    return PassCost(found.at("rows").get<std::vector<std::int64_t>>(),
                    found.at("past").get<std::vector<std::int64_t>>(), std::move(seconds));
  } catch (const Json::exception& error) {
    refuse(Status::bundle, path.string(), std::string("malformed (") + error.what() + ")", "a file of farthing tune",
           kFix);
  }
}

fs::path save_cost(const Bundle& bundle, const CostKey& key, const PassCost& cost) {
  const fs::path path = path_of(bundle, key);
  const fs::path staged = path.parent_path() / (path.filename().string() + "." + std::to_string(getpid()));
  Json lines = Json::array();
  const std::size_t width = cost.rows().size();
  for (std::size_t p = 0; p < cost.past().size(); ++p) {
    const auto begin = cost.grid().begin() + static_cast<std::ptrdiff_t>(p * width);
    lines.push_back(std::vector<double>(begin, begin + static_cast<std::ptrdiff_t>(width)));
  }
  const Json made = {{"format", kFormat},   {"format_version", kVersion}, {"key", described(key)},
                     {"rows", cost.rows()}, {"past", cost.past()},        {"seconds", lines}};
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  std::ofstream(staged, std::ios::binary) << made.dump(1) << '\n';
  fs::rename(staged, path, error);
  if (error) {
    fs::remove(staged, error);
    refuse(Status::request, "folder " + path.parent_path().string(), "not writable", "a place for measured costs",
           "change its permissions, or copy the bundle");
  }
  return path;
}

}  // namespace farthing
