#include "decode_stages.h"

#include <optional>

#include "byte_level.h"
#include "utf8.h"

namespace farthing::tokenizer {
namespace {

class Join final : public DecodeStage {
 public:
  void push(std::string_view token) override {
    if (!first_) next_->push(" ");
    first_ = false;
    next_->push(token);
  }
  void finish() override { first_ = true; }

 private:
  bool first_ = true;
};

class ByteLevel final : public DecodeStage {
 public:
  void push(std::string_view token) override {
    const std::size_t before = bytes_.size();
    for (std::size_t i = 0; i < token.size();) {
      const auto byte = byte_of_character(utf8_next(token, i));
      if (!byte) {  // a character outside the table: the token stands for itself, as added tokens do
        bytes_.resize(before);
        bytes_.append(token);
        break;
      }
      bytes_.push_back(static_cast<char>(*byte));
    }
    text_.clear();
    std::size_t done = 0;
    while (done < bytes_.size()) {
      const Utf8Step step = utf8_step(bytes_, done);
      if (step.state == Utf8State::kIncomplete) break;
      const auto length = static_cast<std::size_t>(step.length);
      if (step.state == Utf8State::kValid)
        text_.append(bytes_, done, length);
      else
        text_.append(kReplacement);
      done += length;
    }
    bytes_.erase(0, done);
    if (!text_.empty()) next_->push(text_);
  }

  void finish() override {
    if (!bytes_.empty()) next_->push(kReplacement);  // one, for the start of one character
    bytes_.clear();
  }

 private:
  std::string bytes_;  // the unfinished end
  std::string text_;
};

// The byte of a token such as <0x0A>. The sign is a quirk of Rust's number parser.
std::optional<char> fallback_byte(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return std::nullopt;
  int value = 0;
  for (int i = 3; i < 5; ++i) {
    const char c = token[static_cast<std::size_t>(i)];
    const char lower = static_cast<char>(c | 0x20);
    if (c >= '0' && c <= '9')
      value = value * 16 + (c - '0');
    else if (lower >= 'a' && lower <= 'f')
      value = value * 16 + (lower - 'a' + 10);
    else if (!(i == 3 && c == '+'))
      return std::nullopt;
  }
  return static_cast<char>(value);
}

class ByteFallback final : public DecodeStage {
 public:
  void push(std::string_view token) override {
    if (const auto byte = fallback_byte(token)) {
      run_.push_back(*byte);
      return;
    }
    finish();
    next_->push(token);
  }

  void finish() override {
    if (run_.empty()) return;
    if (utf8_valid(run_))
      next_->push(run_);
    else
      for (std::size_t i = 0; i < run_.size(); ++i) next_->push(kReplacement);
    run_.clear();
  }

 private:
  std::string run_;
};

class Strip final : public DecodeStage {
 public:
  Strip(char32_t character, std::size_t count, bool fused) : count_(count), fused_(fused), left_(count) {
    utf8_append(character, character_);
  }

  void push(std::string_view token) override {
    if (!fused_) left_ = count_;
    while (left_ > 0 && token.substr(0, character_.size()) == character_) {
      token.remove_prefix(character_.size());
      --left_;
    }
    if (!token.empty()) left_ = 0;  // in a fused text only its very start is stripped
    next_->push(token);
  }

  void finish() override { left_ = count_; }

 private:
  std::string character_;
  std::size_t count_;
  bool fused_;
  std::size_t left_;
};

class Replace final : public DecodeStage {
 public:
  Replace(Pattern pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}

  void push(std::string_view token) override {
    text_.clear();
    next_->push(pattern_.replace(token, content_, text_) ? std::string_view(text_) : token);
  }

 private:
  Pattern pattern_;
  std::string content_;
  std::string text_;
};

class Metaspace final : public DecodeStage {
 public:
  Metaspace(std::string mark, bool drop_first) : mark_(std::move(mark)), drop_first_(drop_first) {}

  void push(std::string_view token) override {
    text_.clear();
    while (!token.empty()) {
      const std::size_t at = token.find(mark_);
      text_.append(token.substr(0, at));
      if (at == token.npos) break;
      if (!(first_ && drop_first_)) text_.push_back(' ');
      token.remove_prefix(at + mark_.size());
    }
    first_ = false;
    next_->push(text_);
  }

  void finish() override { first_ = true; }

 private:
  std::string mark_;
  bool drop_first_;
  bool first_ = true;
  std::string text_;
};

}  // namespace

std::unique_ptr<DecodeStage> make_join_stage() { return std::make_unique<Join>(); }
std::unique_ptr<DecodeStage> make_byte_level_stage() { return std::make_unique<ByteLevel>(); }
std::unique_ptr<DecodeStage> make_byte_fallback_stage() { return std::make_unique<ByteFallback>(); }
std::unique_ptr<DecodeStage> make_strip_stage(char32_t character, std::size_t count, bool fused) {
  return std::make_unique<Strip>(character, count, fused);
}
std::unique_ptr<DecodeStage> make_replace_stage(const Pattern& pattern, const std::string& content) {
  return std::make_unique<Replace>(pattern, content);
}
std::unique_ptr<DecodeStage> make_metaspace_stage(const std::string& mark, bool drop_first) {
  return std::make_unique<Metaspace>(mark, drop_first);
}

}  // namespace farthing::tokenizer
