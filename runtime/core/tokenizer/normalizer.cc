#include "normalizer.h"

#include "error.h"
#include "pattern.h"
#include "unicode.h"

namespace farthing::tokenizer {
namespace {

class Nfc final : public Normalizer {
 public:
  void apply(std::string& text) const override {
    if (trivially_nfc(text)) return;
    std::string composed;
    composed.reserve(text.size());
    append_nfc(text, composed);
    text = std::move(composed);
  }
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  void apply(std::string& text) const override {
    if (!text.empty()) text.insert(0, prefix_);
  }

 private:
  std::string prefix_;
};

class Replace final : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::string& text) const override {
    std::string replaced;
    if (pattern_.replace(text, content_, replaced)) text = std::move(replaced);
  }

 private:
  Pattern pattern_;
  std::string content_;
};

void read(const JsonNode& node, int depth, Normalizers& out) {
  const std::string type = node.type();
  if (type == "Sequence") {
    if (depth > 8) node.wrong("at most eight Sequences in each other", "flatten them");
    node.only({"type", "normalizers"});
    for (const JsonNode& child : node.at("normalizers").items()) read(child, depth + 1, out);
  } else if (type == "NFC") {
    node.only({"type"});
    out.push_back(std::make_unique<Nfc>());
  } else if (type == "Prepend") {
    node.only({"type", "prepend"});
    out.push_back(std::make_unique<Prepend>(node.at("prepend").text()));
  } else if (type == "Replace") {
    node.only({"type", "pattern", "content"});
    out.push_back(std::make_unique<Replace>(Pattern::read(node.at("pattern")), node.at("content").text()));
  } else {
    node.at("type").wrong("NFC, Prepend, Replace or Sequence", kUsePython);
  }
}

}  // namespace

Normalizers read_normalizers(const JsonNode& node) {
  Normalizers normalizers;
  read(node, 0, normalizers);
  return normalizers;
}

}  // namespace farthing::tokenizer
