// The rows of a pass that one row sees, as bits.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace farthing {

// Walks the set bits of `count` words in ascending order.
class VisibleRows {
 public:
  VisibleRows() = default;
  VisibleRows(const std::int64_t* words, std::size_t count) : words_(words), count_(count) { bits_ = word(0); }

  // How many rows are seen. Not fewer after next().
  std::size_t size() const {
    std::size_t total = 0;
    for (std::size_t i = 0; i < count_; ++i) total += static_cast<std::size_t>(std::popcount(word(i)));
    return total;
  }

  bool has(std::size_t row) const { return row / 64 < count_ && (word(row / 64) >> row % 64 & 1) != 0; }

  // Whether a row at or beyond `rows` is in the set.
  bool exceeds(std::size_t rows) const {
    for (std::size_t i = rows / 64; i < count_; ++i) {
      if ((i == rows / 64 ? word(i) >> rows % 64 : word(i)) != 0) return true;
    }
    return false;
  }

  // The next row. Call at most size() times.
  std::size_t next() {
    while (bits_ == 0) bits_ = word(++at_);
    const auto bit = static_cast<std::size_t>(std::countr_zero(bits_));
    bits_ &= bits_ - 1;
    return at_ * 64 + bit;
  }

 private:
  std::uint64_t word(std::size_t i) const { return static_cast<std::uint64_t>(words_[i]); }

  const std::int64_t* words_ = nullptr;
  std::size_t count_ = 0, at_ = 0;
  std::uint64_t bits_ = 0;
};

}  // namespace farthing
