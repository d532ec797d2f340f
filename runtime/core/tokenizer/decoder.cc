#include "decoder.h"

#include "decode_stages.h"
#include "error.h"

namespace farthing::tokenizer {

// The end of the chain: collects into the caller's string.
class Decoder::Run::Sink final : public DecodeStage {
 public:
  void push(std::string_view token) override { out->append(token); }
  std::string* out = nullptr;
};

Decoder::Decoder() { factories_.push_back(make_join_stage); }

Decoder::Decoder(const JsonNode& node) {
  bool fused = false;
  read(node, 0, fused);
}

// `fused` becomes true once a step has joined all tokens into one text. After that a step that looks at tokens one by
// one would depend on how the stream is cut, so only Strip, which looks at the start alone, may follow.
void Decoder::read(const JsonNode& node, int depth, bool& fused) {
  const std::string type = node.type();
  if (type == "Sequence") {
    if (depth > 8) node.wrong("at most eight Sequences in each other", "flatten them");
    node.only({"type", "decoders"});
    for (const JsonNode& child : node.at("decoders").items()) read(child, depth + 1, fused);
    return;
  }
  if (fused && type != "Strip" && type != "Fuse")
    node.at("type").wrong("Strip after the tokens are joined", kUsePython);
  if (type == "ByteLevel") {
    node.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});  // none of them matters here
    factories_.push_back(make_byte_level_stage);
    fused = true;
  } else if (type == "ByteFallback") {
    node.only({"type"});
    factories_.push_back(make_byte_fallback_stage);
  } else if (type == "Fuse") {
    node.only({"type"});
    fused = true;
  } else if (type == "Strip") {
    node.only({"type", "content", "start", "stop"});
    node.at("stop").integer(0, 0);
    const char32_t character = node.at("content").character();
    const auto count = static_cast<std::size_t>(node.at("start").integer(0, 1 << 20));
    factories_.push_back([=] { return make_strip_stage(character, count, fused); });
  } else if (type == "Replace") {
    node.only({"type", "pattern", "content"});
    const Pattern pattern = Pattern::read(node.at("pattern"));
    const std::string content = node.at("content").text();
    factories_.push_back([=] { return make_replace_stage(pattern, content); });
  } else if (type == "Metaspace") {
    node.only({"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"});
    const JsonNode mark = node.at("replacement");
    mark.character();
    const auto scheme = node.maybe("prepend_scheme");
    const std::string name = scheme ? scheme->text() : "always";
    if (name != "always" && name != "first" && name != "never") scheme->wrong("always, first or never", kUsePython);
    if (name != "never" && !node.flag_or("add_prefix_space", true)) {
      node.at("add_prefix_space")
          .wrong("true unless prepend_scheme is never", "write the file again with tokenizers >= 0.15");
    }
    factories_.push_back([text = mark.text(), drop = name != "never"] { return make_metaspace_stage(text, drop); });
  } else {
    node.at("type").wrong("ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip or Sequence", kUsePython);
  }
}

Decoder::Run::Run(const Decoder& decoder) : sink_(std::make_unique<Sink>()) {
  for (const Factory& make : decoder.factories_) {
    stages_.push_back(make());
    if (stages_.size() > 1) stages_[stages_.size() - 2]->set_next(stages_.back().get());
  }
  if (!stages_.empty()) stages_.back()->set_next(sink_.get());
}

Decoder::Run::Run(Run&&) noexcept = default;
Decoder::Run& Decoder::Run::operator=(Run&&) noexcept = default;
Decoder::Run::~Run() = default;

void Decoder::Run::push(std::string_view token, std::string& out) {
  sink_->out = &out;
  (stages_.empty() ? static_cast<DecodeStage&>(*sink_) : *stages_.front()).push(token);
}

void Decoder::Run::finish(std::string& out) {
  sink_->out = &out;
  for (const auto& stage : stages_) stage->finish();  // in order: what one lets go, the next must see before it ends
}

}  // namespace farthing::tokenizer
