// From pixels to the rows that the language model reads: preprocessing, vision tower, projector.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "../backend.h"
#include "../bundle.h"
#include "../ort_backend.h"
#include "../ort_library.h"
#include "geometry.h"
#include "image_cache.h"

namespace farthing {

// An image as a piece of a prompt, at one level.
struct VisualRows {
  std::shared_ptr<const float> embeds;  // [rows, hidden_size]
  std::int64_t rows = 0;                // that go into the decoder
  std::int64_t whole = 0;               // that it would be at level "full"
  // [axes, rows], axes 3 with M-RoPE, else 1: position of each row behind that of the image's beginning; the text behind goes on `advance`
  // positions after that beginning.
  std::vector<std::int64_t> positions;
  std::int64_t advance = 0;
  std::string step;  // graph that puts the rows into the cache
  std::string digest, level;
  bool cached = false;  // the tower did not run
  std::vector<WeightChange>
      changes;  // instead of rows, where images become weights; a position is left free for the image
};

// ONNX Runtime must be loaded; sessions are opened when they are first needed. For one thread.
class VisionEncoder {
 public:
  // `cache_bytes`: of features that are kept.
  VisionEncoder(const Bundle& bundle, const OrtOptions& options, std::size_t cache_bytes);

  // `digest` is digest_of(image), which has passed check_image. Throws Error.
  VisualRows encode(const Image& image, const std::string& digest, const VisionLevel& level);
  const ImageCache& cache() const { return cache_; }

 private:
  using Inputs = std::map<std::string, Ort::Value>;
  Ort::Session& session(const std::string& graph);
  // Outputs by name. Inputs that the graph does not have are left out.
  std::map<std::string, Ort::Value> run(const std::string& graph, const Inputs& inputs);
  std::shared_ptr<const ImageFeatures> look(const Image& image);
  void perceive(const ImageFeatures& seen, VisualRows& made);
  void place(const std::vector<std::int64_t>& kept, const Geometry& geometry, VisualRows& made) const;

  VisionSpec spec_;
  OrtOptions options_;
  std::map<std::string, Ort::Session> sessions_;
  Ort::MemoryInfo memory_;
  ImageCache cache_;
};

}  // namespace farthing
