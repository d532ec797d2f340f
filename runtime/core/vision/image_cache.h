// What the vision tower said of images that were seen lately.
#pragma once

#include <cstddef>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "preprocess.h"

namespace farthing {

struct Array {
  std::vector<float> values;
  std::vector<std::int64_t> shape;
};

// Of one image.
struct ImageFeatures {
  Layout layout;
  std::map<std::string, Array> outputs;  // of the vision graph, by name

  std::size_t bytes() const {
    std::size_t sum = 0;
    for (const auto& [name, array] : outputs) sum += array.values.size() * sizeof(float);
    return sum;
  }
};

// SHA-256 of size and pixels, hex. What stands between the rows of the image does not count.
std::string digest_of(const Image& image);

// By digest, the least recently used forgotten first. What was found stays valid when it is forgotten.
class ImageCache {
 public:
  explicit ImageCache(std::size_t bytes) : most_(bytes) {}

  // Null where it is not known.
  std::shared_ptr<const ImageFeatures> find(const std::string& digest);
  // An entry larger than the whole cache is not kept.
  void add(const std::string& digest, std::shared_ptr<const ImageFeatures> features);
  std::size_t bytes() const { return bytes_; }
  std::size_t size() const { return places_.size(); }

 private:
  using Entry = std::pair<std::string, std::shared_ptr<const ImageFeatures>>;
  std::list<Entry> entries_;  // most recently used first
  std::unordered_map<std::string, std::list<Entry>::iterator> places_;
  std::size_t most_, bytes_ = 0;
};

}  // namespace farthing
