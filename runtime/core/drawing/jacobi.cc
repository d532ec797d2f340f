#include <algorithm>

#include "drafter.h"

namespace farthing::drawing {

Jacobi::Jacobi(std::int64_t codes, std::int64_t most)
    : codes_(static_cast<std::size_t>(codes)),
      ids_(static_cast<std::size_t>(most)),
      q_(static_cast<std::size_t>(most * codes)) {}

void Jacobi::begin(const Step&, std::int64_t) { kept_ = length_ = 0; }

Drafts Jacobi::propose(std::int64_t length, std::int64_t, Stream& stream) {
  length_ = static_cast<std::size_t>(length);
  for (std::size_t i = kept_; i < length_; ++i) {
    ids_[i] = static_cast<std::int64_t>(static_cast<double>(stream.next()) * static_cast<double>(codes_));
    float* row = q_.data() + i * codes_;
    std::fill_n(row, codes_, 0.0f);
    row[ids_[i]] = 1;
  }
  return {std::span(ids_).first(length_), std::span(q_).first(length_ * codes_)};
}

void Jacobi::hear(const Step&, std::span<const float> p, std::span<const std::int64_t> fresh, Stream& stream) {
  // Draft fresh.size() - 1 was refused; those behind it are drawn again from what this pass said there.
  kept_ = length_ - std::min(length_, fresh.size());
  for (std::size_t i = 0; i < kept_; ++i) {
    const auto row = p.subspan((fresh.size() + i) * codes_, codes_);
    std::copy(row.begin(), row.end(), q_.begin() + static_cast<std::ptrdiff_t>(i * codes_));
    ids_[i] = draw(row, stream.next());
  }
}

}  // namespace farthing::drawing
