#include "vision_manifest.h"

#include <algorithm>
#include <regex>
#include <set>

#include "../sha256.h"
#include "../tensors.h"

namespace farthing {
namespace {

using manifest::at, manifest::bad, manifest::count, manifest::text, manifest::Json;

constexpr std::int64_t kMostViewSide = 16384;

std::int64_t side(const Json& json, const std::string& file, const std::string& dotted) {
  const std::int64_t found = count(json, file, dotted);
  if (found > kMostViewSide) {
    bad("field " + dotted + " of " + file, std::to_string(found), "at most " + std::to_string(kMostViewSide));
  }
  return found;
}

std::pair<std::int64_t, std::int64_t> sides(const Json& pair, const std::string& what) {
  const bool two = pair.is_array() && pair.size() == 2 && std::all_of(pair.begin(), pair.end(), [](const Json& n) {
                     return n.is_number_unsigned() && n.get<std::uint64_t>() >= 1 &&
                            n.get<std::uint64_t>() <= static_cast<std::uint64_t>(kMostViewSide);
                   });
  if (!two) bad(what, pair.dump().substr(0, 60), "[height, width], each 1 to " + std::to_string(kMostViewSide));
  return {pair[0].get<std::int64_t>(), pair[1].get<std::int64_t>()};
}

bool boolean(const Json& json, const std::string& file, const std::string& dotted) {
  const Json& value = at(json, file, dotted);
  if (!value.is_boolean()) bad("field " + dotted + " of " + file, value.dump().substr(0, 60), "true or false");
  return value.get<bool>();
}

template <class T>
T one_of(const Json& json, const std::string& file, const std::string& dotted,
         const std::vector<std::pair<std::string, T>>& values) {
  const std::string found = text(json, file, dotted);
  std::string known;
  for (const auto& [name, value] : values) {
    if (name == found) return value;
    known += (known.empty() ? "" : ", ") + name;
  }
  bad("field " + dotted + " of " + file, "'" + found.substr(0, 60) + "'", "one of " + known, "update farthing");
}

void check_three(const Json& json, const std::string& file, const std::string& dotted, double least) {
  const Json& three = at(json, file, dotted);
  const bool sound =
      three.is_array() && three.size() == 3 &&
      std::all_of(three.begin(), three.end(), [&](const Json& n) { return n.is_number() && n.get<double>() >= least; });
  if (!sound) bad("field " + dotted + " of " + file, three.dump().substr(0, 60), "three numbers");
}

void read_clip(const Json& json, const std::string& file, const Json& size, Preprocess& how) {
  const std::string p = "vision.preprocess.";
  const bool cut = at(json, file, "vision.preprocess").contains("crop");
  if (cut) how.crop = side(json, file, p + "crop");
  if (size.is_array()) {
    std::tie(how.height, how.width) = sides(size, "field " + p + "size of " + file);
  } else {
    how.shortest = side(json, file, p + "size");
  }
  if (!cut && how.shortest > 0) bad("field " + p + "crop of " + file, "missing", "present, as size is one number");
}

void read_anyres(const Json& json, const std::string& file, const Json& size, Preprocess& how) {
  const std::string p = "vision.preprocess.";
  how.crop = side(json, file, p + "crop");
  // Views that are resized once more behind the canvas would need another rule for what of it is letterbox.
  const bool square = size.is_array() ? sides(size, "field " + p + "size of " + file) == std::pair(how.crop, how.crop)
                                      : side(json, file, p + "size") == how.crop;
  if (!square) bad("field " + p + "size of " + file, size.dump(), std::to_string(how.crop) + ", that of the crop");
  const Json& all = at(json, file, p + "pinpoints");
  if (!all.is_array() || all.empty()) bad("field " + p + "pinpoints of " + file, all.dump().substr(0, 60), "a list");
  for (const Json& each : all) {
    const auto canvas = sides(each, "an entry of " + p + "pinpoints of " + file);
    if (canvas.first % how.crop != 0 || canvas.second % how.crop != 0) {
      bad("an entry of " + p + "pinpoints of " + file, each.dump(), "multiples of " + std::to_string(how.crop));
    }
    how.pinpoints.push_back(canvas);
  }
}

void read_qwen(const Json& json, const std::string& file, Preprocess& how) {
  const std::string p = "vision.preprocess.";
  how.patch = side(json, file, p + "patch");
  how.merge = side(json, file, p + "merge");
  if (at(json, file, "vision.preprocess").contains("window")) how.window = side(json, file, p + "window");
  how.min_pixels = count(json, file, p + "min_pixels");
  how.max_pixels = count(json, file, p + "max_pixels");
  if (how.min_pixels > how.max_pixels || how.max_pixels > kMostPixels) {
    bad("fields " + p + "min_pixels and max_pixels of " + file,
        std::to_string(how.min_pixels) + " and " + std::to_string(how.max_pixels),
        "ascending, at most " + std::to_string(kMostPixels));
  }
}

Preprocess read_preprocess(const Json& json, const std::string& file) {
  const std::string p = "vision.preprocess.";
  Preprocess how;
  using Kind = Preprocess::Kind;
  how.kind = one_of<Kind>(json, file, p + "kind",
                          {{"clip", Kind::clip}, {"anyres", Kind::anyres}, {"qwen2_vl", Kind::qwen2_vl}});
  how.filter =
      one_of<Filter>(json, file, p + "resample", {{"bicubic", Filter::bicubic}, {"bilinear", Filter::bilinear}});
  check_three(json, file, p + "mean", -1e9);
  check_three(json, file, p + "std", 1e-9);
  if (how.kind == Kind::qwen2_vl) {
    read_qwen(json, file, how);
    return how;
  }
  const Json& size = at(json, file, p + "size");
  how.kind == Kind::clip ? read_clip(json, file, size, how) : read_anyres(json, file, size, how);
  return how;
}

VisionChoice read_choice(const Json& json, const std::string& file, bool perceive) {
  VisionChoice choice{0, text(json, file, "project"), text(json, file, "step")};
  if (perceive) {  // an image goes from there straight into the decoder
    if (choice.project == tensors::kPerceive && choice.step == tensors::kDecoder) return choice;
    bad("graphs of a level of " + file, choice.project.substr(0, 60) + " and " + choice.step.substr(0, 60),
        tensors::kPerceive + " and " + tensors::kDecoder);
  }
  if (!choice.project.starts_with(tensors::kProject) || !choice.step.starts_with(tensors::kVisualStep)) {
    bad("graphs of a level of " + file, choice.project.substr(0, 60) + " and " + choice.step.substr(0, 60),
        tensors::kProject + "... and " + tensors::kVisualStep + "...");
  }
  return choice;
}

VisionLevel read_level(const Json& json, const std::string& manifest, bool perceive) {
  const std::string file = "an entry of vision.levels of " + manifest;
  VisionLevel level;
  level.id = text(json, file, "id");
  static const std::regex plain("[A-Za-z0-9_.-]{1,60}");
  if (!std::regex_match(level.id, plain)) {
    bad("field id of " + file, "'" + level.id.substr(0, 60) + "'", "1 to 60 letters, digits, dots, dashes");
  }
  const Json& ratio = at(json, file, "ratio");
  if (!ratio.is_number() || !(ratio.get<double>() >= 0 && ratio.get<double>() <= 1)) {
    bad("field ratio of " + file, ratio.dump().substr(0, 40), "a number from 0 to 1");
  }
  level.ratio = ratio.get<double>();
  level.buckets = json.contains("buckets");
  if (!level.buckets) {
    level.choices.push_back(read_choice(json, file, perceive));
    if (json.contains("pool")) level.pool = side(json, file, "pool");
    return level;
  }
  const Json& buckets = at(json, file, "buckets");
  if (!buckets.is_array() || buckets.empty()) bad("field buckets of " + file, buckets.dump().substr(0, 60), "a list");
  for (const Json& bucket : buckets) {
    VisionChoice choice = read_choice(bucket, file, perceive);
    choice.tokens = count(bucket, file, "tokens");
    level.choices.push_back(std::move(choice));
  }
  std::sort(level.choices.begin(), level.choices.end(),
            [](const VisionChoice& a, const VisionChoice& b) { return a.tokens < b.tokens; });
  return level;
}

void read_levels(const Json& json, const std::string& file, VisionSpec& spec) {
  const Json& levels = at(json, file, "vision.levels");
  if (!levels.is_array() || levels.empty()) {
    bad("field vision.levels of " + file, levels.dump().substr(0, 60), "a list of at least one");
  }
  std::set<std::string> ids;
  bool full = false;
  for (const Json& each : levels) {
    spec.levels.push_back(read_level(each, file, spec.perceive));
    const VisionLevel& level = spec.levels.back();
    if (!ids.insert(level.id).second) bad("level '" + level.id + "' of " + file, "there twice", "there once");
    full |= level.id == "full" && !level.buckets && level.pool == 1;
    if (level.pool > 1 && (spec.mrope || level.pool > spec.grid)) {
      bad("pool of level '" + level.id + "' of " + file, std::to_string(level.pool),
          "1 with M-RoPE, else at most the grid's " + std::to_string(spec.grid));
    }
  }
  if (spec.perceive && spec.levels.size() > 1) {
    bad("field vision.levels of " + file, std::to_string(spec.levels.size()) + " beside perceive", "level full alone");
  }
  if (!full) bad("field vision.levels of " + file, "without a level 'full'", "one that keeps all rows");
  spec.level = text(json, file, "vision.level");
  if (!ids.contains(spec.level)) {
    bad("field vision.level of " + file, "'" + spec.level.substr(0, 60) + "'", "the id of one of its levels");
  }
}

// Every graph that is named, its files being listed; and who they are together.
void read_graphs(const Json& json, const std::string& file, const std::filesystem::path& root, VisionSpec& spec) {
  std::set<std::string> names{tensors::kVision};
  for (const VisionLevel& level : spec.levels) {
    for (const VisionChoice& choice : level.choices) {
      names.insert(choice.project);
      if (!spec.perceive) names.insert(choice.step);  // else the decoder, which has an identity of its own
    }
  }
  const Json &graphs = at(json, file, "graphs"), &files = at(json, file, "files");
  Sha256 identity;
  for (const std::string& name : names) {
    const std::string what = "graph '" + name.substr(0, 60) + "' of " + file;
    if (!graphs.contains(name)) bad(what, "missing", "a graph that vision names");
    const Json& graph = graphs[name];
    std::vector<std::string> used{text(graph, what, "file")};
    for (const Json& data : at(graph, what, "data")) {
      if (!data.is_string()) bad("data of " + what, data.dump().substr(0, 60), "a list of paths");
      used.push_back(data.get<std::string>());
    }
    for (const std::string& relative : used) {
      if (!files.contains(relative)) bad("file '" + relative + "' used by " + file, "not in 'files'", "a listed file");
      const auto digest = files[relative]["sha256"].get<std::string>();
      identity.update(digest.data(), digest.size());
    }
    spec.graphs[name] = root / used[0];
  }
  spec.sha256 = identity.hex();
}

void read_mrope(const Json& json, const std::string& file, std::int64_t head_dim, VisionSpec& spec) {
  const Json& section = at(json, file, "vision.mrope_section");
  std::int64_t sum = 0;
  bool sound = section.is_array() && section.size() == 3;
  for (std::size_t i = 0; sound && i < 3; ++i) {
    sound = section[i].is_number_unsigned() && section[i].get<std::uint64_t>() <= static_cast<std::uint64_t>(head_dim);
    sum += sound ? section[i].get<std::int64_t>() : 0;
  }
  if (!sound || 2 * sum != head_dim) {
    bad("field vision.mrope_section of " + file, section.dump().substr(0, 60),
        "three counts of together " + std::to_string(head_dim / 2) + ", half of head_dim");
  }
  spec.mrope = true;
  if (spec.compact || spec.preprocess.kind == Preprocess::Kind::anyres) {
    bad("field vision.mrope_section of " + file, "beside compact positions or tiles", "absent there");
  }
}

}  // namespace

Preprocess preprocess_of(const std::string& json) {
  const Json entry = Json::parse(json, nullptr, false);
  if (entry.is_discarded()) bad("preprocess", "not JSON", "a JSON object");
  return read_preprocess({{"vision", {{"preprocess", entry}}}}, "the given entry");
}

VisionSpec read_vision(const Json& json, const std::string& file, const std::filesystem::path& root,
                       std::int64_t vocab_size, std::int64_t layers, std::int64_t head_dim) {
  const Json& entry = at(json, file, "vision");
  VisionSpec spec;
  spec.family = one_of<std::string>(json, file, "vision.family",
                                    {{"llava", "llava"}, {"llava_next", "llava_next"}, {"qwen2_5_vl", "qwen2_5_vl"}});
  const std::int64_t id = count(json, file, "vision.image_token_id", 0);
  if (id >= vocab_size) {
    bad("field vision.image_token_id of " + file, std::to_string(id), "an id below " + std::to_string(vocab_size));
  }
  spec.image_token_id = static_cast<std::int32_t>(id);
  spec.preprocess = read_preprocess(json, file);
  spec.grid = side(json, file, "vision.grid");
  spec.feature_size = count(json, file, "vision.feature_size");
  spec.hidden_size = count(json, file, "model.hidden_size");
  spec.newline = boolean(json, file, "vision.newline");
  spec.perceive = entry.contains("perceive") && boolean(json, file, "vision.perceive");
  if (spec.newline != (spec.preprocess.kind == Preprocess::Kind::anyres)) {
    bad("field vision.newline of " + file, spec.newline ? "true beside one view" : "false beside several views",
        "true exactly with kind anyres");
  }
  spec.compact = one_of<bool>(json, file, "vision.positions", {{"keep", false}, {"compact", true}});
  if (entry.contains("mrope_section")) read_mrope(json, file, head_dim, spec);
  if (entry.contains("prune_layer")) {
    spec.prune_layer = count(json, file, "vision.prune_layer");
    if (spec.prune_layer >= layers) {
      bad("field vision.prune_layer of " + file, std::to_string(spec.prune_layer),
          "below " + std::to_string(layers) + ", the number of layers");
    }
    if (spec.compact) bad("field vision.positions of " + file, "'compact' beside prune_layer", "'keep'");
  }
  if (spec.perceive && (spec.newline || spec.mrope || spec.compact || spec.prune_layer > 0)) {
    bad("field vision.perceive of " + file, "true beside rows of images", "one view, and positions that are kept");
  }
  read_levels(json, file, spec);
  read_graphs(json, file, root, spec);
  return spec;
}

}  // namespace farthing
