#include "deflate.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "error.h"

namespace farthing::drawing {
namespace {

constexpr std::size_t kBlock = 65535;  // input bytes of a block: what a stored one may hold
constexpr std::size_t kReach =
    32767;  // farthest match; one less than allowed, so that no chain meets its own slot again
constexpr std::size_t kLeast = 3, kMost = 258;
constexpr int kTries = 48;         // candidates looked at for a match: beyond, time grows and size hardly shrinks
constexpr std::size_t kGood = 32;  // a match so long is taken without looking for a better one
constexpr unsigned kHashBits = 15;
constexpr std::size_t kSlots = 32768;
constexpr std::int32_t kNone = -1;

struct Code {
  std::uint16_t base;
  std::uint8_t extra;  // bits
};

// Of length symbols 257 + i and of distance symbols i: each is the one before plus 2^extra, RFC 1951, 3.2.5.
constexpr auto kLengths = [] {
  std::array<Code, 29> codes{};
  std::uint16_t base = 3;
  for (std::size_t i = 0; i < 28; ++i) {
    const auto extra = static_cast<std::uint8_t>(i < 8 ? 0 : i / 4 - 1);
    codes[i] = {base, extra};
    base = static_cast<std::uint16_t>(base + (1u << extra));
  }
  codes[28] = {258, 0};
  return codes;
}();
constexpr auto kDistances = [] {
  std::array<Code, 30> codes{};
  std::uint16_t base = 1;
  for (std::size_t i = 0; i < 30; ++i) {
    const auto extra = static_cast<std::uint8_t>(i < 4 ? 0 : i / 2 - 1);
    codes[i] = {base, extra};
    base = static_cast<std::uint16_t>(base + (1u << extra));
  }
  return codes;
}();

template <std::size_t N>
std::size_t symbol_of(const std::array<Code, N>& codes, std::size_t value) {
  const auto after = std::upper_bound(codes.begin(), codes.end(), value,
                                      [](std::size_t v, const Code& code) { return v < code.base; });
  return static_cast<std::size_t>(after - codes.begin()) - 1;
}

struct Huffman {
  std::uint16_t code;  // its first bit lowest, as it is written
  std::uint8_t bits;
};

constexpr Huffman huffman(std::uint32_t code, unsigned bits) {
  std::uint32_t turned = 0;
  for (unsigned i = 0; i < bits; ++i) turned |= ((code >> i) & 1) << (bits - 1 - i);
  return {static_cast<std::uint16_t>(turned), static_cast<std::uint8_t>(bits)};
}

// The fixed codes of literals and lengths, RFC 1951, 3.2.6, and of distances.
constexpr auto kFixed = [] {
  std::array<Huffman, 288> codes{};
  for (std::uint32_t s = 0; s < 288; ++s) {
    codes[s] = s < 144   ? huffman(0x30 + s, 8)
               : s < 256 ? huffman(0x190 + (s - 144), 9)
               : s < 280 ? huffman(s - 256, 7)
                         : huffman(0xC0 + (s - 280), 8);
  }
  return codes;
}();
constexpr auto kFixedDistance = [] {
  std::array<Huffman, 30> codes{};
  for (std::uint32_t s = 0; s < 30; ++s) codes[s] = huffman(s, 5);
  return codes;
}();

// Bits from the least significant on.
class Bits {
 public:
  explicit Bits(std::vector<std::uint8_t>& out) : out_(out) {}
  void put(std::uint32_t value, unsigned count) {
    held_ |= static_cast<std::uint64_t>(value) << filled_;
    for (filled_ += count; filled_ >= 8; filled_ -= 8, held_ >>= 8) out_.push_back(static_cast<std::uint8_t>(held_));
  }
  void put(Huffman code) { put(code.code, code.bits); }
  void align() {
    if (filled_ > 0) put(0, 8 - filled_);
  }

 private:
  std::vector<std::uint8_t>& out_;
  std::uint64_t held_ = 0;
  unsigned filled_ = 0;
};

// A literal (distance 0) or a repetition.
struct Token {
  std::uint16_t length_or_byte, distance;
};

std::size_t cost(const Token& token) {
  if (token.distance == 0) return kFixed[token.length_or_byte].bits;
  const std::size_t length = symbol_of(kLengths, token.length_or_byte);
  const std::size_t distance = symbol_of(kDistances, token.distance);
  return kFixed[257 + length].bits + kLengths[length].extra + 5 + kDistances[distance].extra;
}

void put(Bits& bits, const Token& token) {
  if (token.distance == 0) return bits.put(kFixed[token.length_or_byte]);
  const std::size_t length = symbol_of(kLengths, token.length_or_byte);
  const std::size_t distance = symbol_of(kDistances, token.distance);
  bits.put(kFixed[257 + length]);
  bits.put(token.length_or_byte - kLengths[length].base, kLengths[length].extra);
  bits.put(kFixedDistance[distance]);
  bits.put(token.distance - kDistances[distance].base, kDistances[distance].extra);
}

// Where three bytes stood before: chains through the last 32 KiB, latest first.
class Matches {
 public:
  explicit Matches(std::span<const std::uint8_t> bytes)
      : bytes_(bytes), head_(1u << kHashBits, kNone), previous_(kSlots, kNone) {}

  void add(std::size_t at) {
    if (at + kLeast > bytes_.size()) return;
    std::int32_t& head = head_[hash(at)];
    previous_[at % kSlots] = head;
    head = static_cast<std::int32_t>(at);
  }

  // The longest match that begins at `at` and ends before `end`, at least 3 bytes long; else a literal.
  Token find(std::size_t at, std::size_t end) const {
    const Token literal{bytes_[at], 0};
    const std::size_t room = std::min(kMost, end - at);
    if (room < kLeast) return literal;
    std::size_t best = kLeast - 1, distance = 0;
    std::int32_t candidate = head_[hash(at)];
    for (int tries = 0; tries < kTries && candidate != kNone; ++tries) {
      const auto from = static_cast<std::size_t>(candidate);
      if (from >= at || at - from > kReach) break;
      std::size_t length = 0;
      while (length < room && bytes_[from + length] == bytes_[at + length]) ++length;
      if (length > best) best = length, distance = at - from;
      if (best == room) break;
      candidate = previous_[from % kSlots];
    }
    // Three bytes from far away cost more bits than as literals.
    if (distance == 0 || (best == kLeast && distance > 4096)) return literal;
    return {static_cast<std::uint16_t>(best), static_cast<std::uint16_t>(distance)};
  }

 private:
  std::size_t hash(std::size_t at) const {
    const std::uint32_t three =
        bytes_[at] | static_cast<std::uint32_t>(bytes_[at + 1]) << 8 | static_cast<std::uint32_t>(bytes_[at + 2]) << 16;
    return (three * 0x9E3779B1u) >> (32 - kHashBits);
  }

  std::span<const std::uint8_t> bytes_;
  std::vector<std::int32_t> head_, previous_;
};

std::uint32_t adler32(std::span<const std::uint8_t> bytes) {
  std::uint32_t a = 1, b = 0;
  while (!bytes.empty()) {
    const auto some =
        bytes.first(std::min<std::size_t>(bytes.size(), 5552));  // as many as 32 bits hold without a remainder
    for (const std::uint8_t byte : some) a += byte, b += a;
    a %= 65521, b %= 65521;
    bytes = bytes.subspan(some.size());
  }
  return b << 16 | a;
}

}  // namespace

std::vector<std::uint8_t> zlib_of(std::span<const std::uint8_t> bytes) {
  if (bytes.size() > 0x7FFFFFFF) {
    refuse(Status::request, "size of what is to be compressed", std::to_string(bytes.size()) + " bytes",
           "less than 2 GiB", "write several files");
  }
  std::vector<std::uint8_t> out{0x78, 0x9C};  // deflate, 32 KiB, no dictionary
  Bits bits(out);
  Matches matches(bytes);
  std::vector<Token> tokens;
  tokens.reserve(kBlock);
  std::size_t begin = 0;
  do {
    const std::size_t end = begin + std::min(kBlock, bytes.size() - begin);
    tokens.clear();
    std::size_t size = 3 + 7;  // bits, with header and end of block
    Token next = begin < end ? matches.find(begin, end) : Token{};
    for (std::size_t at = begin; at < end;) {
      const Token token = next;
      const std::size_t length = token.distance ? token.length_or_byte : 1;
      matches.add(at);
      if (token.distance && length < kGood && at + 1 < end) {
        // One byte later a longer match may begin: then this byte is a literal.
        next = matches.find(at + 1, end);
        if (next.distance && next.length_or_byte > length) {
          tokens.push_back({bytes[at], 0});
          size += kFixed[bytes[at]].bits;
          ++at;
          continue;
        }
      }
      for (std::size_t i = 1; i < length; ++i) matches.add(at + i);
      tokens.push_back(token);
      size += cost(token);
      at += length;
      if (at < end) next = matches.find(at, end);
    }
    const bool last = end == bytes.size();
    const std::size_t stored = 3 + 7 + 32 + 8 * (end - begin);  // at most
    bits.put(last ? 1 : 0, 1);
    if (size < stored) {
      bits.put(1, 2);
      for (const Token& token : tokens) put(bits, token);
      bits.put(kFixed[256]);
    } else {
      bits.put(0, 2);
      bits.align();
      const auto length = static_cast<std::uint32_t>(end - begin);
      bits.put(length, 16);
      bits.put(~length & 0xFFFF, 16);
      out.insert(out.end(), bytes.begin() + static_cast<std::ptrdiff_t>(begin),
                 bytes.begin() + static_cast<std::ptrdiff_t>(end));
    }
    begin = end;
  } while (begin < bytes.size());
  bits.align();
  const std::uint32_t check = adler32(bytes);
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<std::uint8_t>(check >> shift));
  return out;
}

}  // namespace farthing::drawing
