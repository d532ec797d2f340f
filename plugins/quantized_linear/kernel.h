// y[rows, n] = x[rows, k] * weight[k, n], the weight being small integers in blocks of k that share a scale.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../native/isa.h"
#include "../native/parallel.h"

namespace farthing {

// Outputs side by side in a packed weight: 16 int32 accumulators are one AVX-512 register.
inline constexpr std::size_t kQuantPanel = 16;

// Shape of a weight. `block` is a power of two from 16 on. Inputs are rounded to 8 bits in groups of `group` = min(block, 32); k is filled up
// with zeros to whole groups.
struct QuantShape {
  std::size_t n = 0, k = 0, block = 0;
  bool nibbles = false;  // 4 bits a weight, else 8
  bool zeros = false;    // blocks have zero points of their own
  float middle = 0;      // the zero point of all blocks where they have none: 8 or 128 for codes that were signed

  std::size_t group() const { return block < 32 ? block : 32; }
  std::size_t groups() const { return (k + group() - 1) / group(); }
  std::size_t blocks() const { return (k + block - 1) / block; }
  std::size_t panels() const { return (n + kQuantPanel - 1) / kQuantPanel; }

  // A packed panel is one line through memory: for each block its scales, float [16], its zero points, uint8 [16], if there are any, and its
  // codes, group by group. Codes are unsigned. A vector holds 16 outputs times 4 neighbours in k (what one dot-product instruction
  // adds up), 64 bytes of codes; with 4 bits a byte's low half belongs to the first half of the group, its high half to the second.
  std::size_t group_bytes() const { return kQuantPanel * group() / (nibbles ? 2 : 1); }
  std::size_t head_bytes() const { return kQuantPanel * (sizeof(float) + (zeros ? 1 : 0)); }
  std::size_t block_bytes() const { return head_bytes() + block / group() * group_bytes(); }
  std::size_t panel_bytes() const { return (blocks() * block_bytes() + 63) / 64 * 64; }
};

// What a graph holds: codes [k, n], 4-bit ones two to a byte (the first in the low half) without gaps between lines.
struct QuantSource {
  const void* codes;
  const float* scales;  // [blocks, n]
  const void* zeros;    // like codes, [blocks, n]; may be null
  bool is_signed;       // codes and zeros
};

// Packs panels [begin, end) into `panels`, which begins at panel `begin` and on a cache line.
void pack_quantized(const QuantShape& shape, const QuantSource& source, std::size_t begin, std::size_t end,
                    void* panels);

struct QuantizedLinearArgs {
  const float* x;
  const void* panels;
  float* y;
  std::size_t rows;
  QuantShape shape;
};

// A row of x is rounded to int8, group by group: code = round(x * 127 / largest |x| of the group). Products are summed exactly in int32
// within a group and in float over the groups, in their order, whatever the number of rows: a row's result does not depend on
// those beside it. A group with a NaN or an infinity makes its row NaN.
FARTHING_DECLARE_KERNEL(void quantized_linear(const QuantizedLinearArgs& args, const Parallel& parallel))

}  // namespace farthing
