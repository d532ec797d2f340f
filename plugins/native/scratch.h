// Memory for one call of a kernel, kept for the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace farthing {

// At least `bytes`, aligned to 64, of this thread; grows only, so nothing is allocated once the largest call has been seen. Owner keeps
// the memory of one operator apart from that of another.
template <class Owner>
std::byte* scratch(std::size_t bytes) {
  thread_local std::unique_ptr<std::byte[]> block;
  thread_local std::size_t size = 0;
  if (size < bytes + 64) {
    block.reset();
    size = 0;
    block.reset(new std::byte[bytes + 64]);
    size = bytes + 64;
  }
  return block.get() + (64 - reinterpret_cast<std::uintptr_t>(block.get()) % 64) % 64;
}

}  // namespace farthing
