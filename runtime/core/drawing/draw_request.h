// What may be asked of a bundle that draws; everything is checked before anything runs. runtime/drawing/request.py says the same.
#pragma once

#include "drawer.h"

namespace farthing::drawing {

// A checked request.
struct Drawer::Plan {
  Wish wish;
  Guidance guidance;
  Warp warp;
  std::uint64_t seed = 0;
  std::string mode;         // plain, or how drafts are accepted
  std::int64_t length = 0;  // drafts a round; 0 with plain decoding
  std::span<const std::int64_t> prefix;
  std::int64_t prefix_codes = 0;  // of each image

  bool plain() const { return length == 0; }
};

}  // namespace farthing::drawing
