#include "bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>

#include "large_pages.h"

namespace farthing {
namespace {

constexpr int kPasses = 8;

// One number of every cache line: the loads are what is measured, not sums. Eight lines at a time, so that many are on their way.
std::uint64_t read(const std::uint64_t* data, std::size_t lines) {
  constexpr std::size_t kWords = 64 / sizeof(std::uint64_t), kLines = 8;
  std::uint64_t sums[kLines] = {};
  for (std::size_t i = 0; i + kLines <= lines; i += kLines) {
    for (std::size_t j = 0; j < kLines; ++j) sums[j] += data[(i + j) * kWords];
  }
  std::uint64_t sum = 0;
  for (const std::uint64_t s : sums) sum += s;
  return sum;
}

}  // namespace

double read_bandwidth(std::size_t bytes) {
  const std::shared_ptr<void> memory = large_pages(bytes);
  std::memset(memory.get(), 1, bytes);  // pages that were never written are all one page of zeros
  double best = 0;
  volatile std::uint64_t sink = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    sink = sink + read(static_cast<const std::uint64_t*>(memory.get()), bytes / 64);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(bytes) / took.count());
  }
  return best;
}

}  // namespace farthing
