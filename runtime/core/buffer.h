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
  // `count` numbers of `width` bytes each.
  explicit Buffer(std::size_t count, std::size_t width = sizeof(float)) : bytes_(count * width) {
    if (bytes_ == 0) return;
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<std::byte*>(memory);
  }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Buffer() {
    if (data_) munmap(data_, bytes_);
  }

  std::span<std::byte> bytes() { return {data_, bytes_}; }
  // Of floats:
  std::span<float> span() { return {data(), size()}; }
  float* data() { return reinterpret_cast<float*>(data_); }
  std::size_t size() const { return bytes_ / sizeof(float); }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace farthing
