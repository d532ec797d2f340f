// Orders of decoding: which codes a pass decides, what the next pass is fed, where the codes stand in the image.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "image_codes.h"

namespace farthing::drawing {

// One pass's worth of codes: draws first .. first + draws - 1 of the image, fed to the next pass as rows row .. row + rows - 1. `codes` of the
// image are known after it.
struct Turn {
  std::int64_t first = 0, draws = 0, row = 0, rows = 0, codes = 0;
};

//   raster    code by code, row by row, of one or several sub-ids     grid^2 turns
//   diagonal  all codes of one distance to the top left corner (NAR)  2 grid - 1
//   window    s x s codes at once (Token-Shuffle)                     (grid / s)^2
class Order {
 public:
  explicit Order(const ImageCodes& image);

  std::span<const Turn> turns() const { return turns_; }
  std::int64_t draws() const { return static_cast<std::int64_t>(numbers_.size()); }
  std::int64_t rows() const { return static_cast<std::int64_t>(positions_.size()); }
  std::int64_t most_draws() const { return most_draws_; }  // of a turn
  std::int64_t most_rows() const { return most_rows_; }
  // Which code of the image draw number n counts as for the guidance.
  std::int64_t number(std::int64_t n) const { return numbers_[static_cast<std::size_t>(n)]; }
  // Position of row number r of all turns, counted from that of code 0.
  std::int64_t position(std::int64_t r) const { return positions_[static_cast<std::size_t>(r)]; }
  // Whether the rows of a turn see each other, and all of them get logits, of both heads.
  bool diagonal() const { return image_.sequence == Sequence::diagonal; }
  // Codes int64 [grid^2] of the image from its draws [draws()], in raster order.
  void place(std::span<const std::int64_t> drawn, std::span<std::int64_t> codes) const;
  // The first draws of an image whose first codes, in raster order, are given: the same backwards, for order raster.
  void split(std::span<const std::int64_t> codes, std::span<std::int64_t> drawn) const;

 private:
  ImageCodes image_;
  std::vector<Turn> turns_;
  std::vector<std::int64_t> numbers_, positions_, places_;  // of draws, rows, draws
  std::int64_t most_draws_ = 0, most_rows_ = 0;
};

// Logits float32 [B, draws, V] of turn number `turn` of the diagonals from both heads float32 [B, rows, V] of the one before: each code is
// said by the right head of its left neighbour and the below head of the one above, averaged where there are both (He et al. 2025).
void mix_diagonal(std::span<const float> right, std::span<const float> below, std::int64_t batch, std::int64_t rows,
                  std::int64_t codes, std::int64_t turn, std::int64_t grid, std::span<float> mixed);

}  // namespace farthing::drawing
