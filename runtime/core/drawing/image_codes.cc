#include "image_codes.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "bundle_files.h"
#include "tensors.h"

namespace farthing::drawing {
namespace {

using manifest::at, manifest::bad, manifest::count, manifest::text, manifest::Json;
namespace fs = std::filesystem;

constexpr std::array<std::string_view, 4> kModes{"exact", "grouped", "partition", "neighbourhood"};
constexpr std::int64_t kMostSide = 1024;       // codes along a side: a million of an image
constexpr std::int64_t kMostPixels = 1 << 14;  // along a side, so that an image has the 2^28 that pictures may have
constexpr std::int64_t kMostDrafts = 1024;

class Fields {
 public:
  Fields(const Json& manifest, const std::string& file) : manifest_(manifest), file_(file) {}

  bool has(const std::string& field) const { return at(manifest_, file_, "image_codes").contains(field); }
  std::int64_t number(const std::string& field, std::int64_t least, std::int64_t most) const {
    const std::int64_t found = count(manifest_, file_, "image_codes." + field, least);
    if (found > most) refuse_field(field, std::to_string(found), "at most " + std::to_string(most));
    return found;
  }
  std::string word(const std::string& field) const { return text(manifest_, file_, "image_codes." + field); }
  const Json& json(const std::string& field) const { return at(manifest_, file_, "image_codes." + field); }
  [[noreturn]] void refuse_field(const std::string& field, const std::string& found, const std::string& wanted) const {
    bad("image_codes." + field + " of " + file_, found, wanted);
  }

 private:
  const Json& manifest_;
  const std::string& file_;
};

void read_order(const Fields& fields, ImageCodes& image) {
  const std::string order = fields.has("order") ? fields.word("order") : "raster";
  if (order != "raster" && order != "diagonal" && order != "window") {
    fields.refuse_field("order", "'" + order + "'", "raster, diagonal or window");
  }
  image.sequence = order == "raster" ? Sequence::raster : order == "diagonal" ? Sequence::diagonal : Sequence::window;
  if (fields.has("per_step")) image.per_step = fields.number("per_step", 1, 256);
  if (fields.has("window")) image.window = fields.number("window", 1, 16);
  if (fields.has("sub_bits")) image.sub_bits = fields.number("sub_bits", 0, 24);
  const bool windows = image.sequence == Sequence::window;
  if ((image.window > 1 && !windows) || image.grid % image.window != 0) {
    fields.refuse_field("window", std::to_string(image.window), "a divisor of the grid, with order window");
  }
  // A row has the codes of a window, the parts of a code, or one code.
  const bool parts = image.sub_bits > 0 && image.sequence == Sequence::raster && image.sub_bits * image.per_step <= 62;
  if (windows ? image.per_step != image.window * image.window : image.per_step > 1 && !parts) {
    fields.refuse_field("per_step", std::to_string(image.per_step),
                        windows ? "the codes of a window" : "1, or the number of sub-ids of sub_bits each");
  }
  if (image.sub_bits > 0 && (!parts || image.codes != std::int64_t{1} << image.sub_bits)) {
    fields.refuse_field("sub_bits", std::to_string(image.sub_bits),
                        "those of codes, with order raster, at most 62 together");
  }
}

void read_range(const Fields& fields, ImageCodes& image) {
  if (!fields.has("pixel_range")) return;
  const Json& range = fields.json("pixel_range");
  if (!range.is_array() || range.size() != 2 || !range[0].is_number() || !range[1].is_number() ||
      !(range[0].get<double>() < range[1].get<double>())) {
    fields.refuse_field("pixel_range", range.dump().substr(0, 60), "two ascending numbers");
  }
  image.low = range[0].get<double>();
  image.high = range[1].get<double>();
}

void read_drafts(const Fields& fields, ImageCodes& image) {
  if (fields.has("drafts")) image.drafts = fields.word("drafts");
  if (image.drafts == "none") return;
  if (image.drafts != "jacobi" && image.drafts != "eagle") {
    fields.refuse_field("drafts", "'" + image.drafts + "'", "none, jacobi or eagle");
  }
  if (image.sequence != Sequence::raster || image.per_step != 1) {
    fields.refuse_field("drafts", "'" + image.drafts + "'", "none for a model with several codes a pass");
  }
  const bool jacobi = image.drafts == "jacobi";
  const std::string length = jacobi ? "draft_window" : "draft_length";
  image.draft_length = fields.has(length) ? fields.number(length, 1, kMostDrafts) : jacobi ? 16 : 5;
  const Json& modes = fields.json("accept");
  if (!modes.is_array() || modes.empty()) fields.refuse_field("accept", modes.dump().substr(0, 60), "a list of modes");
  for (const Json& mode : modes) {
    if (!mode.is_string() || std::find(kModes.begin(), kModes.end(), mode.get<std::string>()) == kModes.end()) {
      fields.refuse_field("accept", mode.dump().substr(0, 60), "exact, grouped, partition or neighbourhood");
    }
    image.accept.push_back(mode.get<std::string>());
  }
  image.default_accept = fields.has("default_accept") ? fields.word("default_accept") : image.accept[0];
  if (std::find(image.accept.begin(), image.accept.end(), image.default_accept) == image.accept.end()) {
    fields.refuse_field("default_accept", "'" + image.default_accept + "'", "one of accept");
  }
  if (!fields.has("certain_drafts")) return;
  const Json& certain = fields.json("certain_drafts");
  if (!certain.is_array()) fields.refuse_field("certain_drafts", certain.dump().substr(0, 60), "a list of modes");
  for (const Json& mode : certain) {
    if (!mode.is_string() ||
        std::find(image.accept.begin(), image.accept.end(), mode.get<std::string>()) == image.accept.end()) {
      fields.refuse_field("certain_drafts", mode.dump().substr(0, 60), "some of accept");
    }
    image.certain.push_back(mode.get<std::string>());
  }
}

void read_graphs(const Json& manifest, const std::string& file, const Json& files, DrawingBundle& bundle) {
  const Json& graphs = at(manifest, file, "graphs");
  if (!graphs.is_object()) bad("field graphs of " + file, "no object", "an object");
  for (const auto& [name, graph] : graphs.items()) {
    const std::string at_graph = "graphs." + name;
    const std::string relative = text(manifest, file, at_graph + ".file");
    if (!files.contains(relative)) bad(at_graph + ".file of " + file, "'" + relative + "'", "a listed file");
    bundle.graphs[name] = bundle.path / relative;
    const Json& data = at(manifest, file, at_graph + ".data");
    if (!data.is_array()) bad(at_graph + ".data of " + file, data.dump().substr(0, 60), "a list of paths");
    for (const Json& each : data) {
      if (!each.is_string() || !files.contains(each.get<std::string>())) {
        bad(at_graph + ".data of " + file, each.dump().substr(0, 60), "listed files");
      }
    }
  }
  bundle.texts = bundle.graphs.contains(tensors::kCondition);
  std::vector<std::string> needed{tensors::kArStep, tensors::kVqDecode, tensors::kSample};
  for (const std::string& mode : bundle.image.accept) needed.push_back(tensors::kAccept + mode);
  if (bundle.texts) needed.push_back(tensors::kArPrefill);
  if (bundle.image.drafts == "eagle") needed.push_back(tensors::kDraftStep);
  for (const std::string& name : needed) {
    if (!bundle.graphs.contains(name)) bad("graph " + name + " of " + file, "missing", "present");
  }
}

// What model and image_codes say of each other.
void read_condition(const Json& manifest, const std::string& file, DrawingBundle& bundle) {
  const ImageCodes& image = bundle.image;
  const std::int64_t places = image.tokens() / (image.window * image.window);
  const std::int64_t positions = count(manifest, file, "model.max_positions");
  bundle.condition_rows = positions - places;
  if (bundle.texts ? positions <= places : positions != 1 + places) {
    bad("model.max_positions of " + file, std::to_string(positions), std::to_string(1 + places) + " by image_codes");
  }
  if (bundle.texts) return;
  const std::int64_t vocabulary = count(manifest, file, "model.vocab_size"), all = image.codes + image.classes + 1;
  if (vocabulary != all && vocabulary != all - 1) {
    bad("model.vocab_size of " + file, std::to_string(vocabulary), std::to_string(all) + " by image_codes");
  }
  bundle.unconditional = vocabulary == all;
}

}  // namespace

DrawingBundle open_drawing_bundle(const fs::path& root, bool hashes) {
  const std::string file = (root / "manifest.json").string();
  try {
    const Json manifest = read_manifest(root);
    if (!manifest.contains("image_codes")) {
      bad("method of " + root.string(), "'" + text(manifest, file, "method.id") + "'", "a model that draws",
          "export llamagen, or use farthing run");
    }
    const Json& files = check_files(manifest, root, hashes);
    DrawingBundle bundle;
    bundle.path = root;
    bundle.name = text(manifest, file, "name");
    bundle.layers = count(manifest, file, "kv.layers");
    bundle.heads = count(manifest, file, "kv.kv_heads");
    bundle.head_dim = count(manifest, file, "kv.head_dim");
    if (const std::string dtype = text(manifest, file, "kv.dtype"); dtype != "float32")
      bad("kv.dtype of " + file, dtype, "float32");
    bundle.hidden_size = count(manifest, file, "model.hidden_size");
    const Fields fields(manifest, file);
    ImageCodes& image = bundle.image;
    image.codes = fields.number("codes", 2, 1 << 24);
    image.classes = fields.number("classes", 0, 1 << 24);
    image.grid = fields.number("grid", 1, kMostSide);
    image.size = fields.number("size", 1, kMostPixels);
    read_order(fields, image);
    read_range(fields, image);
    read_drafts(fields, image);
    read_graphs(manifest, file, files, bundle);
    read_condition(manifest, file, bundle);
    return bundle;
  } catch (const Json::exception& error) {
    bad(file, std::string("malformed (") + error.what() + ")", "what the schema says");
  } catch (const fs::filesystem_error& error) {
    bad(root.string(), std::string("unreadable (") + error.what() + ")", "a readable bundle", "check its permissions");
  }
}

}  // namespace farthing::drawing
