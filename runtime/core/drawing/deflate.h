// zlib streams (RFC 1950 and 1951), writing only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace farthing::drawing {

// Any zlib reader gives `bytes` back. At most 2^31 - 1 of them. LZ77 over 32 KiB with fixed Huffman codes, each block stored as it is
// where that is shorter.
std::vector<std::uint8_t> zlib_of(std::span<const std::uint8_t> bytes);

}  // namespace farthing::drawing
