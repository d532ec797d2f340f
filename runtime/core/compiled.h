// What `farthing compile` left beside a bundle: compiled/<target>/<key>/index.json. The C++ twin of runtime/bundle/compiled.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "bundle.h"

namespace farthing {

// Rows a profile takes: of the pass, and of those that go through the head.
struct CompiledProfile {
  std::string name;
  std::int64_t least_rows = 1, most_rows = 1;
  std::int64_t least_wanted = 1, most_wanted = 1;
};

struct Compiled {
  std::filesystem::path folder;
  std::filesystem::path file;  // of the decoder graph
  std::string target;
  std::string bundle;   // identity of the graphs it was compiled from
  std::string version;  // of TensorRT or ONNX Runtime
  std::string kernels;  // SHA-256 of libfarthing_ops.so, for target cpu
  std::vector<std::int64_t> sm;
  std::optional<std::int64_t> plugin_abi;
  std::int64_t capacity = 0;
  bool in_place = true;  // past and present are one buffer
  std::vector<CompiledProfile> profiles;
};

// What an engine must fit. Fields that are not known yet are not compared.
struct Machine {
  std::string version;                     // of the library, e.g. "10.3.0"
  std::optional<std::int64_t> sm;          // of the device
  std::optional<std::int64_t> plugin_abi;  // of our plugin library, where one is loaded
  std::int64_t capacity = 0;               // cache slots asked for; 0 = whatever the engine has
};

// The results for `target`, read but not hashed. Throws Error(bundle) for an index that is damaged.
std::vector<Compiled> list_compiled(const Bundle& bundle, const std::string& target);

// The one of `all` that fits bundle and machine. Throws Error(bundle) that says what the nearest one was made for, what is
// here, and how to get one that fits.
const Compiled& choose_compiled(const std::vector<Compiled>& all, const Bundle& bundle, const Machine& machine);

// Checks size and SHA-256 of the files the index lists. Throws Error(bundle).
void check_compiled(const Compiled& compiled);

}  // namespace farthing
