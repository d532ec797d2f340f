// Reading VisionSpec from a manifest.
#pragma once

#include <filesystem>
#include <string>

#include "../manifest_fields.h"
#include "vision_spec.h"

namespace farthing {

// `file`: the manifest's path, for messages; `root`: the bundle's folder. The other numbers are those of the model. Throws Error(bundle).
VisionSpec read_vision(const manifest::Json& json, const std::string& file, const std::filesystem::path& root,
                       std::int64_t vocab_size, std::int64_t layers, std::int64_t head_dim);

}  // namespace farthing
