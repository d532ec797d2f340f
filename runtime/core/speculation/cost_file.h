// Measured costs beside a bundle: compiled/costs/<key>.json, written by `farthing tune`.
#pragma once

#include <optional>
#include <string>

#include "../bundle.h"
#include "cost.h"

namespace farthing {

// What the costs of a pass depend on, besides rows and past.
struct CostKey {
  std::string bundle;   // Bundle::graph_sha256
  std::string device;   // name of the processor
  int threads = 0;      // cores used
  bool kernels = true;  // our operator library, or bodies
};

// Name of this machine's processor: "model name" of /proc/cpuinfo, or a board's device tree model; "unknown" where neither is said.
std::string device_name();
// The key of this bundle on this machine; threads 0 = all cores.
CostKey cost_key(const Bundle& bundle, int threads, bool kernels);

// The costs that were measured for `key`, if any. Throws Error(bundle) for a damaged file.
std::optional<PassCost> load_cost(const Bundle& bundle, const CostKey& key);
// Writes them, replacing older ones of the same key; returns the path. Throws Error(request) where the folder takes no file.
std::filesystem::path save_cost(const Bundle& bundle, const CostKey& key, const PassCost& cost);

}  // namespace farthing
