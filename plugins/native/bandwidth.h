// What memory delivers, to compare kernels with.
#pragma once

#include <cstddef>

namespace farthing {

// Bytes a second that one thread reads, the best of some passes over `bytes`, which should be many times the caches. Throws std::bad_alloc.
double read_bandwidth(std::size_t bytes);

}  // namespace farthing
