// Page-aligned zeroed memory that costs nothing until it is touched.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <span>
#include <utility>

namespace farthing {

// The key/value cache of a long context is mostly untouched for most of its life: anonymous mappings give its pages only when
// they are written, so resident memory follows the length and not the capacity.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t floats) : floats_(floats) {
    if (floats == 0) return;
    void* memory = mmap(nullptr, floats * sizeof(float), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<float*>(memory);
  }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), floats_(std::exchange(other.floats_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(floats_, other.floats_);
    return *this;
  }
  ~Buffer() {
    if (data_) munmap(data_, floats_ * sizeof(float));
  }

  std::span<float> span() { return {data_, floats_}; }
  float* data() { return data_; }
  std::size_t size() const { return floats_; }

 private:
  float* data_ = nullptr;
  std::size_t floats_ = 0;
};

}  // namespace farthing
