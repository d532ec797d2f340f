#include "large_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <new>

namespace farthing {
namespace {

constexpr std::size_t kPage = std::size_t{2} << 20;
constexpr std::size_t kChunk = std::size_t{32} << 20;  // of which the untouched end costs nothing
constexpr std::size_t kAlign = 64;

std::size_t round_up(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit * unit; }

struct Chunk {
  void* mapping = nullptr;
  std::size_t mapped = 0, size = 0, used = 0;
  std::byte* begin = nullptr;

  explicit Chunk(std::size_t bytes) : mapped(bytes + kPage), size(bytes) {
    mapping = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) throw std::bad_alloc();
    begin = reinterpret_cast<std::byte*>(round_up(reinterpret_cast<std::uintptr_t>(mapping), kPage));
#if defined(MADV_HUGEPAGE)
    madvise(begin, size, MADV_HUGEPAGE);  // a wish: without it everything works, slower
#endif
  }
  Chunk(const Chunk&) = delete;
  Chunk& operator=(const Chunk&) = delete;
  ~Chunk() { munmap(mapping, mapped); }
};

}  // namespace

std::shared_ptr<void> large_pages(std::size_t bytes) {
  static std::mutex mutex;
  static std::weak_ptr<Chunk> current;
  bytes = round_up(std::max<std::size_t>(bytes, 1), kAlign);
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<Chunk> chunk = current.lock();
  if (!chunk || chunk->size - chunk->used < bytes) {
    chunk = std::make_shared<Chunk>(round_up(std::max(bytes, kChunk), kPage));
    current = chunk;
  }
  std::byte* data = chunk->begin + chunk->used;
  chunk->used += bytes;
  return {chunk, data};
}

void release_file_pages(const void* data, std::size_t bytes) {
#if defined(__linux__)
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const std::uintptr_t begin = round_up(reinterpret_cast<std::uintptr_t>(data), page);
  const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(data) + bytes) / page * page;
  if (begin >= end) return;
  std::FILE* maps = std::fopen("/proc/self/maps", "r");
  if (maps == nullptr) return;
  char line[512];
  bool of_a_file = false;
  while (std::fgets(line, sizeof line, maps) != nullptr) {
    unsigned long first = 0, last = 0, offset = 0, inode = 0;
    if (std::sscanf(line, "%lx-%lx %*4s %lx %*x:%*x %lu", &first, &last, &offset, &inode) != 4) continue;
    if (first <= begin && end <= last) {
      of_a_file = inode != 0;
      break;
    }
  }
  std::fclose(maps);
  // Initialisers are never written to, so no private copy of such a page exists that could be lost.
  if (of_a_file) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace farthing
