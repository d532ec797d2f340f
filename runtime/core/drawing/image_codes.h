// A bundle that draws: what its manifest says, and where its graphs are.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace farthing::drawing {

enum class Sequence { raster, diagonal, window };

// Entry `image_codes` of the manifest.
struct ImageCodes {
  std::int64_t codes = 0;  // V: ids that the step graph knows and gives logits of
  std::int64_t classes = 0;
  std::int64_t grid = 0;  // codes along a side
  std::int64_t size = 0;  // pixels along a side
  Sequence sequence = Sequence::raster;
  std::int64_t per_step = 1;  // ids of a row
  std::int64_t window = 1;    // codes along a side of what a row decides
  std::int64_t sub_bits = 0;  // the ids of a row are parts of one code, of so many bits each
  double low = -1, high = 1;  // of pixels
  std::string drafts = "none";
  std::vector<std::string> accept;  // modes
  std::string default_accept;
  std::vector<std::string> certain;  // modes whose guesses are the drafter's best code; with the others they are drawn
  std::int64_t draft_length =
      0;  // of a pass where a request does not say: draft_window with jacobi, draft_length with eagle

  std::int64_t tokens() const { return grid * grid; }
  // Number of different codes, 2^62 at most.
  std::int64_t all_codes() const { return sub_bits ? std::int64_t{1} << (sub_bits * per_step) : codes; }
};

struct DrawingBundle {
  std::filesystem::path path;
  std::string name;
  ImageCodes image;
  std::int64_t layers = 0, heads = 0, head_dim = 0, hidden_size = 0;
  bool texts = false;          // conditioned by features of texts (graphs condition, ar_prefill), not by classes
  bool unconditional = false;  // there are rows without a condition, which guidance needs; with texts the graph says
  std::int64_t condition_rows = 0;                      // positions before code 0
  std::map<std::string, std::filesystem::path> graphs;  // by name
};

// Opens and checks the bundle in `path`, as open_bundle() does. Throws Error(bundle), also for models that do not draw.
DrawingBundle open_drawing_bundle(const std::filesystem::path& path, bool hashes);

}  // namespace farthing::drawing
