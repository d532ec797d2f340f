// Entry `vision` of a manifest: how images become rows of the language model's cache.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "preprocess.h"

namespace farthing {

// One way from features to the cache: names of graphs.
struct VisionChoice {
  std::int64_t tokens = 0;  // rows that stay, K; 0 = whatever the graph makes of all
  std::string project, step;
};

// What a request may ask for: all rows, half of them...
struct VisionLevel {
  std::string id;
  double ratio = 0;                   // of the candidates that is dropped
  std::vector<VisionChoice> choices;  // by ascending tokens
  bool buckets = false;               // false: one choice for every image
  std::int64_t pool = 1;              // rows are means over pool x pool squares of the grid
};

struct VisionSpec {
  std::string family;
  std::int32_t image_token_id = 0;  // stands once per image in a prompt, and for every row of it in the cache
  Preprocess preprocess;
  std::int64_t grid = 0, feature_size = 0, hidden_size = 0;
  bool newline = false;
  bool mrope = false;            // positions are triples (time, row, column)
  bool perceive = false;         // images become weights, not rows
  bool compact = false;          // kept rows are numbered anew; else they keep the positions of the whole image
  std::int64_t prune_layer = 0;  // first layer that holds kept rows only; 0 = rows are dropped before the decoder
  std::vector<VisionLevel> levels;
  std::string level;                                    // where a request names none
  std::map<std::string, std::filesystem::path> graphs;  // of all names above, and `vision`
  std::string sha256;                                   // over these graphs and their data

  // The level of that name, the bundle's own for an empty one. Throws Error(request).
  const VisionLevel& level_of(const std::string& id) const;
  // What to run for an image of `rows` rows, `newlines` of them always kept: the smallest bucket that keeps as many as the ratio asks
  // for; where that is all of them, the graphs that keep all. Throws Error(request) where no bucket is large enough.
  const VisionChoice& choice_of(const VisionLevel& level, std::int64_t rows, std::int64_t newlines) const;
};

// Of `tokens` how many stay when `ratio` is dropped: halves to even, at least 1 below ratio 1. The twin of runtime/keep.py.
std::int64_t keep_count(std::int64_t tokens, double ratio);

}  // namespace farthing
