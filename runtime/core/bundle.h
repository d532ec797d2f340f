// A bundle on disk, checked: the C++ twin of farthing/runtime/bundle/read.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "vision/vision_spec.h"

namespace farthing {

// When a drafted token is accepted that the model would not say: entry `judge` of the manifest.
struct JudgeRule {
  double delta = 0.5, min_probability = 0.01;
  std::int64_t max_consecutive = 8;       // 0 = no limit
  std::vector<std::int32_t> control_ids;  // ascending
};

struct Bundle {
  std::filesystem::path path;
  std::string name;
  std::filesystem::path graph;  // of the decoder
  std::string graph_sha256;     // over graph and external data: identifies the model a saved state belongs to
  std::int64_t vocab_size = 0, layers = 0, kv_heads = 0, head_dim = 0, max_positions = 0;
  // A recurrent state instead of a cache: the last rows of each layer. 0 for models with a cache.
  std::int64_t state_rows = 0, state_width = 0;
  // Mask tokens that the model was trained to guess with, and the graph of its sampler head; 0 = none.
  std::int64_t masks = 0, hidden_size = 0;
  // Tokens that the draft graph makes; L of the latents it makes them of, where these are a row's and not its masks'.
  std::int64_t drafts = 0, row_latents = 0;
  std::filesystem::path draft_chain;
  std::optional<JudgeRule> judge;
  std::size_t cache_width =
      sizeof(float);    // bytes of a number in the cache: 1 for int8 codes, whose scales are in the graph
  std::string weights;  // format of the layers' matrices: float32, int4, nvfp4...
  std::optional<std::filesystem::path> tokenizer;
  std::vector<std::int32_t> eos_ids;
  std::optional<std::int32_t> bos_id;
  bool add_bos = false;
  std::optional<VisionSpec> vision;  // a model that reads images, too

  bool recurrent() const { return state_rows > 0; }
};

// Opens and checks the bundle in `path`: fields, version, that every listed file is a plain file inside the folder with the
// listed size and (with `hashes`) SHA-256. Throws Error(bundle).
Bundle open_bundle(const std::filesystem::path& path, bool hashes);

}  // namespace farthing
