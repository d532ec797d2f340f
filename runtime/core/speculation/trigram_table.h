// Which tokens followed which two: the table of ADED (Liu et al. 2024, arXiv 2407.12021).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace farthing {

// The twelve best successors of a pair of tokens, by falling score, lower ids first among equals.
struct Successors {
  static constexpr std::size_t kMost = 12;
  std::array<std::int32_t, kMost> ids;
  std::array<float, kMost> scores;
  std::int32_t count = 0;

  float total() const;
};

class TableFile;

// A bounded table in memory: sets of four pairs, of which the one that was not reinforced for longest gives way. 120 bytes a pair.
// Deterministic: the same calls leave the same table. Over a file it shows what the file has for pairs that it does not hold itself, and
// goes on from there when they are reinforced; the file is not changed.
class TrigramTable {
 public:
  // `pairs`: how many it holds, rounded up to a power of two.
  explicit TrigramTable(std::size_t pairs, std::shared_ptr<const TableFile> file = nullptr);

  void clear();
  const Successors* find(std::int32_t a, std::int32_t b) const;
  // Adds `step` to the score of c behind (a, b), up to `cap`. A full list drops its worst for a newcomer.
  void reinforce(std::int32_t a, std::int32_t b, std::int32_t c, float step, float cap);
  std::size_t bytes() const { return slots_.size() * sizeof(Slot); }

 private:
  static constexpr std::size_t kWays = 4;
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};
  struct Slot {
    std::uint64_t key = kEmpty;
    std::uint32_t used = 0;
    Successors successors;
  };
  static std::uint64_t key(std::int32_t a, std::int32_t b) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(a)) << 32 | static_cast<std::uint32_t>(b);
  }
  std::size_t first_way(std::uint64_t key) const;

  std::vector<Slot> slots_;
  std::shared_ptr<const TableFile> file_;
  std::uint32_t clock_ = 0;
};

}  // namespace farthing
