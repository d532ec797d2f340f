#include "text_stream.h"

#include <algorithm>
#include <utility>

#include "error.h"

namespace farthing {

TextStream::TextStream(const Tokenizer& tokenizer, std::vector<std::string> stop)
    : decoder_(tokenizer), stop_(std::move(stop)) {
  for (const std::string& text : stop_) {
    if (text.empty())
      farthing::refuse(Status::request, "stop string", "empty", "at least one character", "leave it out");
  }
}

std::string TextStream::push(std::int32_t id) {
  if (stopped_) return {};
  decoder_.push(id, held_);
  return release(false);
}

std::string TextStream::finish() {
  if (stopped_) return {};
  held_ += decoder_.flush();
  return release(true);
}

std::string TextStream::release(bool all) {
  std::size_t cut = std::string::npos;
  for (const std::string& text : stop_) cut = std::min(cut, held_.find(text));
  if (cut != std::string::npos) {
    stopped_ = true;
    std::string out = held_.substr(0, cut);
    held_.clear();
    return out;
  }
  std::size_t keep = 0;  // longest end of the text that a stop string could begin with
  if (!all) {
    for (const std::string& text : stop_) {
      for (std::size_t n = std::min(text.size() - 1, held_.size()); n > keep; --n) {
        if (held_.compare(held_.size() - n, n, text, 0, n) == 0) keep = n;
      }
    }
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

}  // namespace farthing
