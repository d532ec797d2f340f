#include <algorithm>
#include <cstring>

#include "kernel.h"

namespace farthing {
namespace {

// Square blocks of 16 x 16: whole cache lines are read, and the 16 lines written stay in L1 until they are full.
template <class Weight>
void pack(const Weight* weight, std::size_t n, std::size_t k, std::size_t begin, std::size_t end, Weight* panels) {
  for (std::size_t col = begin * kLinearPanel; col < end * kLinearPanel; col += kLinearPanel) {
    const std::size_t columns = std::min(kLinearPanel, n - col);
    const Weight* in = weight + col * k;
    Weight* out = panels + col * k;
    if (columns < kLinearPanel) std::memset(out, 0, kLinearPanel * k * sizeof(Weight));
    for (std::size_t p = 0; p < k; p += kLinearPanel) {
      const std::size_t depth = std::min(kLinearPanel, k - p);
      for (std::size_t c = 0; c < columns; ++c) {
        for (std::size_t i = 0; i < depth; ++i) out[(p + i) * kLinearPanel + c] = in[c * k + p + i];
      }
    }
  }
}

}  // namespace

void pack_linear(const void* weight, bool half, std::size_t n, std::size_t k, std::size_t begin, std::size_t end,
                 void* panels) {
  if (half) {
    pack(static_cast<const std::uint16_t*>(weight), n, k, begin, end, static_cast<std::uint16_t*>(panels));
  } else {
    pack(static_cast<const float*>(weight), n, k, begin, end, static_cast<float*>(panels));
  }
}

}  // namespace farthing
