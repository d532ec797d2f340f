#include "image_cache.h"

#include "../sha256.h"

namespace farthing {

std::string digest_of(const Image& image) {
  Sha256 digest;
  const std::string size = std::to_string(image.height) + "x" + std::to_string(image.width) + ":";
  digest.update(size.data(), size.size());
  const auto row = static_cast<std::size_t>(3 * image.width);
  if (image.stride == 3 * image.width) {
    digest.update(image.rgb, row * static_cast<std::size_t>(image.height));
  } else {
    for (std::int64_t y = 0; y < image.height; ++y) digest.update(image.row(y), row);
  }
  return digest.hex();
}

std::shared_ptr<const ImageFeatures> ImageCache::find(const std::string& digest) {
  const auto place = places_.find(digest);
  if (place == places_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, place->second);
  return place->second->second;
}

void ImageCache::add(const std::string& digest, std::shared_ptr<const ImageFeatures> features) {
  const std::size_t size = features->bytes();
  if (size > most_ || places_.contains(digest)) return;
  while (bytes_ + size > most_) {
    bytes_ -= entries_.back().second->bytes();
    places_.erase(entries_.back().first);
    entries_.pop_back();
  }
  entries_.emplace_front(digest, std::move(features));
  places_[digest] = entries_.begin();
  bytes_ += size;
}

}  // namespace farthing
