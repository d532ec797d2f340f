// What is asked of a generation, and what comes of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sampler.h"
#include "speculation/speculation.h"
#include "vision/image.h"

namespace farthing {

struct GenerateOptions {
  std::int64_t max_new_tokens = 128;
  SamplerOptions sampler;
  std::vector<std::int32_t> stop_ids;
  bool reuse_prefix = false;  // keep the cache of what the prompt has in common with it, prefill the rest
  bool resume = false;        // append the prompt to the cache instead of replacing it
  // With the context full: begin again at position 0 with the last this many tokens and go on. 0 = stop.
  std::int64_t restart_window = 0;
  bool speculate = true;  // where the engine has a drafter
};

// An image that a prompt shows. Read during the call only.
struct ImageInput {
  Image image;
  std::string level;  // of the bundle's levels; empty = its own choice
};

// Of the images of one call that were not in the cache of keys and values already.
struct VisionStats {
  std::int64_t images = 0, encoded = 0, cache_hits = 0;  // encoded by the tower; hits: its features were still there
  std::int64_t rows_before = 0, rows_after = 0;          // rows without dropping any, rows that reach the last layer
  double seconds = 0;  // preprocessing, tower and projector, wall clock; part of prefill_seconds
};

enum class StopReason { length, eos, callback, context, cancelled };
const char* name(StopReason reason);

struct Stats {
  std::int64_t prompt_tokens = 0, new_tokens = 0;                           // of an image its rows
  std::int64_t passes = 0, rows = 0;                                        // runs of the graph, rows over all of them
  double prefill_seconds = 0, decode_seconds = 0, first_token_seconds = 0;  // wall clock
  double prefill_cpu_seconds = 0, decode_cpu_seconds = 0;                   // of the whole process
  double model_seconds = 0;                                                 // inside the backend, wall clock
  std::int64_t restarts = 0;                                                // see GenerateOptions::restart_window
  SpeculationStats speculation;
  VisionStats vision;
};

struct Generation {
  std::vector<std::int32_t> ids;  // without the stop id
  StopReason reason = StopReason::length;
  std::optional<std::int32_t> stop_id;
  Stats stats;
};

}  // namespace farthing
