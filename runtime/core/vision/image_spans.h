// Where in the cache images are, and what they do to the positions of the text behind.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace farthing {

// Rows begin .. begin + rows - 1 of the cache; none where the image became weights.
struct ImageSpan {
  std::int64_t begin = 0, rows = 0;
  std::int64_t late = 0;     // slots it takes in the layers behind a pruning inside the decoder; else rows
  std::int64_t advance = 0;  // positions it takes
  std::string digest, level;

  std::int64_t end() const { return begin + rows; }
};

// The images of one sequence, in order.
class ImageSpans {
 public:
  void add(ImageSpan span) {
    shift_ += span.advance - span.rows;
    gap_ += span.rows - span.late;
    spans_.push_back(std::move(span));
  }
  void clear() {
    spans_.clear();
    shift_ = gap_ = 0;
  }
  // Forgets those behind `length`, which lies in none.
  void cut(std::int64_t length) {
    for (; !spans_.empty() && spans_.back().end() > length; spans_.pop_back()) {
      shift_ -= spans_.back().advance - spans_.back().rows;
      gap_ -= spans_.back().rows - spans_.back().late;
    }
  }
  // The image that slot `slot` belongs to, or null.
  const ImageSpan* at(std::int64_t slot) const {
    for (const ImageSpan& span : spans_) {
      if (slot < span.end()) return slot >= span.begin ? &span : nullptr;
    }
    return nullptr;
  }
  bool empty() const { return spans_.empty(); }
  const std::vector<ImageSpan>& all() const { return spans_; }
  // Of a text row at the end: its position minus its slot, and its slot minus that in the late layers.
  std::int64_t shift() const { return shift_; }
  std::int64_t gap() const { return gap_; }

 private:
  std::vector<ImageSpan> spans_;
  std::int64_t shift_ = 0, gap_ = 0;
};

}  // namespace farthing
