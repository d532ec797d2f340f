#include "tokenizer.h"

#include "tokenizer_parts.h"
#include "utf8.h"

namespace farthing {

using tokenizer::AddedTokenFinder;

namespace {

constexpr std::size_t kLargestText = std::size_t{1} << 30;  // positions in BPE are 32 bits wide

// Memory for one encode, reused from piece to piece.
struct EncodeScratch {
  tokenizer::BpeScratch bpe;
  tokenizer::Pieces pieces;
  std::string normalized;
  std::vector<AddedTokenFinder::Part> plain_parts, normalized_parts;
};

}  // namespace

std::vector<std::int32_t> Tokenizer::encode(std::string_view utf8, bool add_special_tokens, bool parse_special) const {
  if (utf8.size() > kLargestText) {
    tokenizer::refuse("the text", std::to_string(utf8.size()) + " bytes", "at most 1 GiB", "encode it in parts");
  }
  std::string repaired;
  if (!tokenizer::utf8_valid(utf8)) {
    tokenizer::utf8_append_repaired(utf8, repaired);
    utf8 = repaired;
  }
  EncodeScratch scratch;
  std::vector<std::int32_t> ids;
  if (add_special_tokens) ids = parts_->frame.before;

  const auto encode_plain = [&](std::string_view text, bool leads) {
    tokenizer::Pieces& pieces = scratch.pieces;
    pieces.text.assign(text);
    pieces.spans.assign(1, {0, text.size(), leads});
    for (const auto& step : parts_->pre_tokenizers) step->apply(pieces);
    for (const auto& span : pieces.spans) {
      parts_->bpe.encode(std::string_view(pieces.text).substr(span.begin, span.end - span.begin), scratch.bpe, ids);
    }
  };
  parts_->plain_finder.split(utf8, parse_special, scratch.plain_parts);
  for (const auto& part : scratch.plain_parts) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    scratch.normalized.assign(utf8.substr(part.begin, part.end - part.begin));
    for (const auto& normalizer : parts_->normalizers) normalizer->apply(scratch.normalized);
    parts_->normalized_finder.split(scratch.normalized, parse_special, scratch.normalized_parts);
    for (const auto& inner : scratch.normalized_parts) {
      if (inner.id >= 0) {
        ids.push_back(inner.id);
      } else {
        encode_plain(std::string_view(scratch.normalized).substr(inner.begin, inner.end - inner.begin),
                     part.begin == 0 && inner.begin == 0);
      }
    }
  }
  if (add_special_tokens) ids.insert(ids.end(), parts_->frame.after.begin(), parts_->frame.after.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  tokenizer::Decoder::Run run(parts_->decoder);
  std::string text;
  for (const std::int32_t id : ids) {
    if (const std::string* token = parts_->decodable(id, skip_special)) run.push(*token, text);
  }
  run.finish(text);
  return text;
}

std::int32_t Tokenizer::vocab_size() const { return parts_->count; }

std::int32_t Tokenizer::id_limit() const { return parts_->limit; }

std::optional<std::int32_t> Tokenizer::token_to_id(std::string_view token) const {
  const auto added = parts_->added_ids.find(std::string(token));
  return added != parts_->added_ids.end() ? std::optional(added->second) : parts_->bpe.vocabulary().find(token);
}

std::optional<std::string_view> Tokenizer::id_to_token(std::int32_t id) const {
  const std::string* text = parts_->token_text(id);
  return text ? std::optional<std::string_view>(*text) : std::nullopt;
}

bool Tokenizer::is_special(std::int32_t id) const { return parts_->is_special(id); }

struct StreamDecoder::State {
  State(std::shared_ptr<const Tokenizer::Parts> tokenizer_parts, bool skip)
      : parts(std::move(tokenizer_parts)), skip_special(skip), run(parts->decoder) {}
  std::shared_ptr<const Tokenizer::Parts> parts;  // keeps the tokenizer alive
  bool skip_special;
  tokenizer::Decoder::Run run;
};

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : state_(std::make_unique<State>(tokenizer.parts_, skip_special)) {}
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;
StreamDecoder::~StreamDecoder() = default;

void StreamDecoder::push(std::int32_t id, std::string& out) {
  if (const std::string* token = state_->parts->decodable(id, state_->skip_special)) state_->run.push(*token, out);
}

std::string StreamDecoder::push(std::int32_t id) {
  std::string text;
  push(id, text);
  return text;
}

std::string StreamDecoder::flush() {
  std::string text;
  state_->run.finish(text);
  return text;
}

}  // namespace farthing
