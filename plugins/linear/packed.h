// The packed weights of the process. Equal weights are packed once, whoever holds them: the steps of an unrolled chain, the graphs
// of a bundle that share a head, or several sessions over one bundle.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "../native/large_pages.h"
#include "kernel.h"

namespace farthing {

class PackedWeights {
 public:
  // The packed form of weight [n, k], whose pages are given back to the file it is mapped from. Thread-safe. Throws std::bad_alloc.
  std::shared_ptr<const void> pack(const void* weight, bool half, std::size_t n, std::size_t k) {
    const Shape shape{weight, half, n, k};
    const Samples samples = shape.samples();
    for (const auto& held : alike(shape, samples)) {
      if (equal(shape, static_cast<const std::byte*>(held.get()))) return held;
    }
    const std::size_t bytes = linear_panels(n) * linear_panel_bytes(k, half);
    const std::shared_ptr<void> made = large_pages(bytes);
    shape.in_pieces([&](std::size_t begin, std::size_t end) {
      pack_linear(weight, half, n, k, begin, end, made.get());
      return true;
    });
    const std::lock_guard lock(mutex_);
    entries_.push_back({half, n, k, bytes, samples, made});
    return made;
  }

  // Bytes of all that somebody holds.
  std::size_t bytes() {
    const std::lock_guard lock(mutex_);
    std::size_t sum = 0;
    for (const Entry& entry : entries_) sum += entry.held.expired() ? 0 : entry.bytes;
    return sum;
  }

 private:
  using Samples = std::array<std::uint32_t, 32>;

  struct Shape {
    const void* weight;
    bool half;
    std::size_t n, k;

    const std::byte* row(std::size_t i) const { return static_cast<const std::byte*>(weight) + i * row_bytes(); }
    std::size_t row_bytes() const { return k * (half ? sizeof(std::uint16_t) : sizeof(float)); }

    // The beginnings of rows here and there: unequal weights are told apart without reading them.
    Samples samples() const {
      Samples found{};
      for (std::size_t i = 0; i < found.size() && n > 0; ++i) {
        std::memcpy(&found[i], row(i * (n - 1) / (found.size() - 1)), std::min(row_bytes(), sizeof(std::uint32_t)));
      }
      return found;
    }

    // Calls part(begin, end) with panels, a piece at a time, until it says false, and releases what was read before the next is: at no
    // time is more than a piece in memory twice.
    template <class Part>
    bool in_pieces(const Part& part) const {
      constexpr std::size_t kPieceBytes = std::size_t{8} << 20;
      const std::size_t all = linear_panels(n), panel = std::max<std::size_t>(linear_panel_bytes(k, half), 1);
      const std::size_t piece = std::max<std::size_t>(kPieceBytes / panel, 1);
      for (std::size_t begin = 0; begin < all; begin += piece) {
        const std::size_t end = std::min(begin + piece, all), first = begin * kLinearPanel;
        if (!part(begin, end)) return false;
        release_file_pages(row(first), (std::min(end * kLinearPanel, n) - first) * row_bytes());
      }
      return true;
    }
  };

  struct Entry {
    bool half;
    std::size_t n, k, bytes;
    Samples samples;
    std::weak_ptr<const void> held;
  };

  std::vector<std::shared_ptr<const void>> alike(const Shape& shape, const Samples& samples) {
    const std::lock_guard lock(mutex_);
    std::erase_if(entries_, [](const Entry& e) { return e.held.expired(); });
    std::vector<std::shared_ptr<const void>> found;
    for (const Entry& e : entries_) {
      if (e.half == shape.half && e.n == shape.n && e.k == shape.k && e.samples == samples) {
        if (auto held = e.held.lock()) found.push_back(std::move(held));
      }
    }
    return found;
  }

  // Packs a panel at a time and compares all bytes.
  static bool equal(const Shape& shape, const std::byte* packed) {
    const std::size_t bytes = linear_panel_bytes(shape.k, shape.half);
    std::vector<std::byte> panel(bytes);
    return shape.in_pieces([&](std::size_t begin, std::size_t end) {
      for (std::size_t p = begin; p < end; ++p) {
        const std::size_t first = p * kLinearPanel;
        pack_linear(shape.row(first), shape.half, std::min(kLinearPanel, shape.n - first), shape.k, 0, 1, panel.data());
        if (std::memcmp(panel.data(), packed + p * bytes, bytes) != 0) return false;
      }
      return true;
    });
  }

  std::mutex mutex_;
  std::vector<Entry> entries_;
};

}  // namespace farthing
