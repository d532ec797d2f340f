#include "bundle.h"

#include <algorithm>

#include "bundle_files.h"
#include "error.h"
#include "manifest_fields.h"
#include "sha256.h"
#include "tensors.h"
#include "vision/vision_manifest.h"

namespace farthing {
namespace {

using manifest::at, manifest::bad, manifest::count, manifest::text, manifest::Json;
namespace fs = std::filesystem;

// A number that the manifest says twice.
std::int64_t same(const Json& manifest, const std::string& file, const std::string& field, std::int64_t implied) {
  const std::int64_t found = count(manifest, file, field);
  if (found != implied) bad(field + " of " + file, std::to_string(found), std::to_string(implied));
  return found;
}

void check_float32(const Json& manifest, const std::string& file, const std::string& field) {
  if (const std::string dtype = text(manifest, file, field); dtype != "float32")
    bad(field + " of " + file, dtype, "float32");
}

void read_cache(const Json& manifest, const std::string& file, Bundle& bundle) {
  bundle.layers = same(manifest, file, "kv.layers", count(manifest, file, "model.layers"));
  bundle.kv_heads = same(manifest, file, "kv.kv_heads", count(manifest, file, "model.kv_heads"));
  bundle.head_dim = same(manifest, file, "kv.head_dim", count(manifest, file, "model.head_dim"));
  const std::string dtype = text(manifest, file, "kv.dtype");
  if (dtype != "float32" && dtype != "int8") bad("kv.dtype of " + file, dtype, "float32 or int8");
  bundle.cache_width = dtype == "int8" ? 1 : sizeof(float);
}

void read_state(const Json& manifest, const std::string& file, Bundle& bundle) {
  if (manifest.contains("kv")) bad("field kv of " + file, "beside state", "one of the two");
  bundle.layers = same(manifest, file, "state.layers", count(manifest, file, "model.layers"));
  bundle.state_rows = same(manifest, file, "state.rows", count(manifest, file, "model.kernel_size", 2) - 1);
  bundle.state_width = same(manifest, file, "state.width", count(manifest, file, "model.hidden_size"));
  check_float32(manifest, file, "state.dtype");
}

void read_chain(const Json& manifest, const std::string& file, const std::string& graph, Bundle& bundle) {
  bundle.hidden_size = count(manifest, file, "model.hidden_size");
  const std::string chain = text(manifest, file, "graphs." + graph + ".file");
  if (!at(manifest, file, "files").contains(chain))
    bad("file '" + chain + "' used by " + file, "not in 'files'", "a listed file");
  bundle.draft_chain = bundle.path / chain;
}

void read_masks(const Json& manifest, const std::string& file, Bundle& bundle) {
  bundle.masks = count(manifest, file, "mtp.masks");
  bundle.drafts = bundle.masks;
  read_chain(manifest, file, tensors::kMtpDraftChain, bundle);
}

void read_ftp(const Json& manifest, const std::string& file, Bundle& bundle) {
  bundle.drafts = count(manifest, file, "ftp.horizon") - 1;
  bundle.row_latents = count(manifest, file, "ftp.latent_size");
  read_chain(manifest, file, tensors::kFtpDraftChain, bundle);
}

void read_judge(const Json& manifest, const std::string& file, Bundle& bundle) {
  const auto share = [&](const std::string& field) {
    const Json& value = at(manifest, file, field);
    if (!value.is_number() || !(value.get<double>() >= 0 && value.get<double>() <= 1))
      bad(field + " of " + file, value.dump().substr(0, 40), "a number from 0 to 1");
    return value.get<double>();
  };
  JudgeRule rule;
  rule.delta = share("judge.delta");
  rule.min_probability = share("judge.min_probability");
  rule.max_consecutive = count(manifest, file, "judge.max_consecutive", 0);
  const Json& ids = at(manifest, file, "judge.control_ids");
  if (!ids.is_array()) bad("judge.control_ids of " + file, ids.dump().substr(0, 40), "a list of ids");
  for (const Json& id : ids) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= static_cast<std::uint64_t>(bundle.vocab_size))
      bad("judge.control_ids of " + file, id.dump().substr(0, 40), "ids below " + std::to_string(bundle.vocab_size));
    rule.control_ids.push_back(id.get<std::int32_t>());
  }
  std::sort(rule.control_ids.begin(), rule.control_ids.end());
  bundle.judge = std::move(rule);
}

void read_tokenizer(const Json& manifest, const std::string& file, Bundle& bundle) {
  const Json& tokenizer = at(manifest, file, "tokenizer");
  if (tokenizer.is_null()) return;
  bundle.tokenizer = bundle.path / text(manifest, file, "tokenizer.file");
  if (count(manifest, file, "tokenizer.vocab_size") > bundle.vocab_size) {
    bad("tokenizer.vocab_size of " + file, tokenizer["vocab_size"].dump(),
        "at most the embedding's " + std::to_string(bundle.vocab_size) + " rows",
        "use the tokenizer the model was trained with");
  }
  const auto id = [&](const Json& value, const char* field) {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() >= static_cast<std::uint64_t>(bundle.vocab_size)) {
      bad(std::string("tokenizer.") + field + " of " + file, value.dump().substr(0, 40),
          "an id below " + std::to_string(bundle.vocab_size));
    }
    return value.get<std::int32_t>();
  };
  const Json& eos = at(manifest, file, "tokenizer.eos_ids");
  if (!eos.is_array()) bad("tokenizer.eos_ids of " + file, "no list", "a list of ids");
  for (const Json& value : eos) bundle.eos_ids.push_back(id(value, "eos_ids"));
  if (const Json& bos = at(manifest, file, "tokenizer.bos_id"); !bos.is_null()) bundle.bos_id = id(bos, "bos_id");
  const Json& add = at(manifest, file, "tokenizer.add_bos");
  if (!add.is_boolean()) bad("tokenizer.add_bos of " + file, add.dump().substr(0, 40), "true or false");
  bundle.add_bos = add.get<bool>();
}

}  // namespace

Bundle open_bundle(const fs::path& root, bool hashes) {
  const std::string file = (root / "manifest.json").string();
  try {
    const Json manifest = read_manifest(root);
    const Json& files = check_files(manifest, root, hashes);
    if (manifest.contains("image_codes")) {
      bad("method of " + root.string(), "'" + text(manifest, file, "method.id") + "', which draws", "a model of text",
          "use farthing draw, or farthing_drawer_open");
    }
    Bundle bundle;
    bundle.path = root;
    bundle.name = text(manifest, file, "name");
    bundle.vocab_size = count(manifest, file, "model.vocab_size");
    bundle.max_positions = count(manifest, file, "model.max_positions");
    manifest.contains("state") ? read_state(manifest, file, bundle) : read_cache(manifest, file, bundle);
    bundle.weights = text(manifest, file, "quantization.weights");
    if (manifest.contains("judge")) read_judge(manifest, file, bundle);
    read_tokenizer(manifest, file, bundle);

    const Json& graphs = at(manifest, file, "graphs");
    const bool masked = graphs.contains(tensors::kMtpStep), ahead = graphs.contains(tensors::kFtpStep);
    if (masked) read_masks(manifest, file, bundle);
    if (ahead) read_ftp(manifest, file, bundle);
    const std::string graph = "graphs." + (bundle.recurrent() ? tensors::kGam
                                           : masked           ? tensors::kMtpStep
                                           : ahead            ? tensors::kFtpStep
                                                              : tensors::kDecoder);
    std::vector<std::string> used{text(manifest, file, graph + ".file")};
    bundle.graph = root / used[0];
    for (const Json& data : at(manifest, file, graph + ".data")) {
      if (!data.is_string()) bad(graph + ".data of " + file, data.dump().substr(0, 60), "a list of paths");
      used.push_back(data.get<std::string>());
    }
    Sha256 identity;
    for (const std::string& relative : used) {
      if (!files.contains(relative)) bad("file '" + relative + "' used by " + file, "not in 'files'", "a listed file");
      const auto digest = files[relative]["sha256"].get<std::string>();
      identity.update(digest.data(), digest.size());
    }
    if (bundle.tokenizer && !files.contains(text(manifest, file, "tokenizer.file"))) {
      bad("tokenizer.file of " + file, "not in 'files'", "a listed file");
    }
    if (manifest.contains("vision")) {
      if (bundle.recurrent()) bad("field vision of " + file, "beside state", "a model with a cache");
      if (bundle.cache_width != sizeof(float)) bad("kv.dtype of " + file, "int8 beside vision", "float32");
      bundle.vision = read_vision(manifest, file, root, bundle.vocab_size, bundle.layers, bundle.head_dim);
    }
    bundle.graph_sha256 = identity.hex();
    return bundle;
  } catch (const Json::exception& error) {
    bad(file, std::string("malformed (") + error.what() + ")", "what the schema says");
  } catch (const fs::filesystem_error& error) {
    bad(root.string(), std::string("unreadable (") + error.what() + ")", "a readable bundle", "check its permissions");
  }
}

}  // namespace farthing
