#include <cstring>

#include "kernel.h"

namespace farthing {
namespace {

// Element i of an array of codes, as unsigned with its zero moved to 8 or 128.
inline std::uint8_t code(const void* codes, bool nibbles, bool is_signed, std::size_t i) {
  const std::uint8_t byte = static_cast<const std::uint8_t*>(codes)[nibbles ? i / 2 : i];
  if (!nibbles) return is_signed ? byte ^ 0x80 : byte;
  const std::uint8_t half = i % 2 ? byte >> 4 : byte & 15;
  return is_signed ? half ^ 8 : half;
}

}  // namespace

void pack_quantized(const QuantShape& shape, const QuantSource& source, std::size_t begin, std::size_t end,
                    void* panels) {
  const std::size_t n = shape.n, group = shape.group(), bytes = shape.panel_bytes();
  std::memset(panels, 0, (end - begin) * bytes);
  for (std::size_t p = begin; p < end; ++p) {
    std::uint8_t* panel = static_cast<std::uint8_t*>(panels) + (p - begin) * bytes;
    const std::size_t first = p * kQuantPanel, columns = n - first < kQuantPanel ? n - first : kQuantPanel;
    for (std::size_t b = 0; b < shape.blocks(); ++b) {
      std::uint8_t* head = panel + b * shape.block_bytes();
      std::memcpy(head, source.scales + b * n + first, columns * sizeof(float));
      for (std::size_t c = 0; shape.zeros && c < columns; ++c) {
        head[kQuantPanel * sizeof(float) + c] = code(source.zeros, shape.nibbles, source.is_signed, b * n + first + c);
      }
    }
    for (std::size_t k = 0; k < shape.k; ++k) {
      const std::size_t b = k / shape.block, g = k % shape.block / group, at = k % group;
      // With 4 bits the two halves of a group lie in the two halves of the bytes.
      const std::size_t place = shape.nibbles ? at % (group / 2) : at;
      const int shift = shape.nibbles && at >= group / 2 ? 4 : 0;
      std::uint8_t* codes = panel + b * shape.block_bytes() + shape.head_bytes() + g * shape.group_bytes();
      std::uint8_t* to = codes + place / 4 * (4 * kQuantPanel) + place % 4;
      for (std::size_t c = 0; c < columns; ++c) {
        to[4 * c] |=
            static_cast<std::uint8_t>(code(source.codes, shape.nibbles, source.is_signed, k * n + first + c) << shift);
      }
    }
  }
}

}  // namespace farthing
