// The manifest and the files of a bundle, whatever kind of model it holds.
#pragma once

#include <filesystem>

#include "manifest_fields.h"

namespace farthing {

// manifest.json of the folder, of a version we know. Throws Error(bundle).
manifest::Json read_manifest(const std::filesystem::path& root);

// Its entry `files`, after every one of them was found inside the folder as a plain file of its size and (with `hashes`) SHA-256.
// Throws Error(bundle).
const manifest::Json& check_files(const manifest::Json& manifest, const std::filesystem::path& root, bool hashes);

}  // namespace farthing
