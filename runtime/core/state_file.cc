// Saving and restoring a sequence: Engine::save_state and Engine::load_state.
//
// Layout, little-endian: Header; int32 tokens[length]; per layer keys [kv_heads][length][head_dim] as the bundle caches them
// (float32, or int8 codes), then values, or the float32 rows of a recurrent state; SHA-256 of all of it as 64 hex characters.
//
// Version 2, for sequences with images: VisionHeader and its spans stand between Header and tokens, and layers from the bundle's
// prune_layer on have as many slots fewer as images take fewer there. Sequences of text are still written as version 1.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>

#include "engine.h"
#include "error.h"
#include "manifest_fields.h"
#include "sha256.h"

namespace farthing {
namespace {

struct Header {
  char magic[8];
  std::int64_t version;
  char graph[64];                                   // Bundle::graph_sha256
  std::int64_t layers, kv_heads, head_dim, length;  // of a recurrent state: layers, rows, width
};
static_assert(sizeof(Header) == 112);

struct VisionHeader {
  char vision[64];  // VisionSpec::sha256
  std::int64_t spans;
};
struct SavedSpan {
  std::int64_t begin, rows, late, advance;
  char digest[64], level[64];  // zeros behind the level's id
};
static_assert(sizeof(VisionHeader) == 72 && sizeof(SavedSpan) == 160);

constexpr char kMagic[] = "FARTHSEQ";
constexpr std::int64_t kVersion = 1, kVisionVersion = 2;
constexpr std::size_t kDigest = 64;

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

File open(const std::filesystem::path& path, const char* mode) {
  File file(std::fopen(path.c_str(), mode), &std::fclose);
  if (!file)
    refuse(Status::request, path.string(), std::strerror(errno), "a file that can be opened", "check the path");
  return file;
}

Header expected(const Bundle& bundle) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof header.magic);
  header.version = kVersion;
  std::memcpy(header.graph, bundle.graph_sha256.data(), sizeof header.graph);
  header.layers = bundle.layers;
  header.kv_heads = bundle.recurrent() ? bundle.state_rows : bundle.kv_heads;
  header.head_dim = bundle.recurrent() ? bundle.state_width : bundle.head_dim;
  return header;
}

// Writes and hashes at once; reports a full disk.
class Writer {
 public:
  explicit Writer(const std::filesystem::path& path) : path_(path), file_(open(path, "wb")) {}
  void put(const void* data, std::size_t bytes) {
    digest_.update(data, bytes);
    raw(data, bytes);
  }
  void finish() {
    const std::string hex = digest_.hex();
    raw(hex.data(), hex.size());
    if (std::fflush(file_.get()) != 0) failed();
  }

 private:
  void raw(const void* data, std::size_t bytes) {
    if (std::fwrite(data, 1, bytes, file_.get()) != bytes) failed();
  }
  [[noreturn]] void failed() {
    refuse(Status::request, path_.string(), std::strerror(errno), "room for the state", "free some space");
  }
  std::filesystem::path path_;
  File file_;
  Sha256 digest_;
};

void get(std::FILE* file, const std::filesystem::path& path, void* data, std::size_t bytes) {
  if (std::fread(data, 1, bytes, file) != bytes) {
    refuse(Status::bundle, path.string(), "truncated", "a whole state file", "save the state again");
  }
}

void check_digest(const std::filesystem::path& path, std::uintmax_t bytes) {
  const File file = open(path, "rb");
  Sha256 digest;
  std::vector<char> piece(1 << 20);
  for (std::uintmax_t left = bytes; left > 0;) {
    const auto step = static_cast<std::size_t>(std::min<std::uintmax_t>(left, piece.size()));
    get(file.get(), path, piece.data(), step);
    digest.update(piece.data(), step);
    left -= step;
  }
  std::string stored(kDigest, ' ');
  get(file.get(), path, stored.data(), kDigest);
  const std::string found = digest.hex();
  if (found != stored) refuse(Status::bundle, "sha256 of " + path.string(), found, stored, "save the state again");
}

// The beginning of an identity as a message can say it, whatever a damaged file holds there.
std::string beginning(const char* identity) {
  std::string text(identity, 12);
  for (char& c : text) c = c > ' ' && c < 127 ? c : '?';
  return text + "...";
}

std::vector<SavedSpan> saved(const ImageSpans& spans) {
  std::vector<SavedSpan> all;
  for (const ImageSpan& span : spans.all()) {
    SavedSpan& to = all.emplace_back(SavedSpan{span.begin, span.rows, span.late, span.advance, {}, {}});
    span.digest.copy(to.digest, sizeof to.digest);
    span.level.copy(to.level, sizeof to.level - 1);
  }
  return all;
}

// Reads and checks the images of a version 2 file, which may be damaged in any way: its checksum comes later.
ImageSpans read_spans(std::FILE* file, const std::filesystem::path& path, const Bundle& bundle, std::int64_t length) {
  VisionHeader header;
  get(file, path, &header, sizeof header);
  if (!bundle.vision || std::memcmp(header.vision, bundle.vision->sha256.data(), sizeof header.vision) != 0) {
    refuse(Status::bundle, "vision model of " + path.string(), beginning(header.vision),
           bundle.vision ? bundle.vision->sha256.substr(0, 12) + "..." : "none",
           "load it into the bundle it was saved from");
  }
  const auto damaged = [&](const std::string& what, std::int64_t found) {
    refuse(Status::bundle, what + " of " + path.string(), std::to_string(found), "that of a whole file",
           "save the state again");
  };
  if (header.spans < 1 || header.spans > length) damaged("number of images", header.spans);
  ImageSpans spans;
  for (std::int64_t i = 0, end = 0; i < header.spans; ++i) {
    SavedSpan span;
    get(file, path, &span, sizeof span);
    if (span.begin < end || span.begin > length) damaged("beginning of an image", span.begin);
    if (span.rows < 1 || span.rows > length - span.begin) damaged("rows of an image", span.rows);
    if (span.late < 1 || span.late > span.rows || (span.late < span.rows && bundle.vision->prune_layer == 0)) {
      damaged("late rows of an image", span.late);
    }
    if (span.advance < 1 || span.advance > manifest::kCountLimit) damaged("positions of an image", span.advance);
    end = span.begin + span.rows;
    spans.add({span.begin, span.rows, span.late, span.advance, std::string(span.digest, sizeof span.digest),
               std::string(span.level, strnlen(span.level, sizeof span.level))});
  }
  return spans;
}

}  // namespace

// Every piece of memory that a sequence of `length` tokens needs, `gap` fewer of them behind prune_layer, in the order of a saved file.
void Engine::visit_state(std::int64_t length, std::int64_t gap,
                         const std::function<void(std::span<std::byte>)>& visit) {
  const std::int64_t late =
      bundle_.vision && bundle_.vision->prune_layer > 0 ? bundle_.vision->prune_layer : bundle_.layers;
  const std::size_t row = static_cast<std::size_t>(bundle_.head_dim) * bundle_.cache_width,
                    stride = static_cast<std::size_t>(capacity()) * row;
  for (std::int64_t layer = 0; layer < bundle_.layers; ++layer) {
    if (bundle_.recurrent()) {
      visit(std::as_writable_bytes(backend_->state(layer)));
      continue;
    }
    const auto filled = static_cast<std::size_t>(layer < late ? length : length - gap);
    for (const std::span<std::byte> cache : {backend_->keys(layer), backend_->values(layer)}) {
      for (std::int64_t head = 0; head < bundle_.kv_heads; ++head) {
        visit(cache.subspan(static_cast<std::size_t>(head) * stride, filled * row));
      }
    }
  }
}

void Engine::save_state(const std::filesystem::path& path) {
  if (!perceived_.empty()) {
    refuse(Status::request, "sequence to save", "one with an image in it, which became weights", "text only",
           "go back to the beginning first");
  }
  const std::filesystem::path staged = path.string() + ".partial" + std::to_string(getpid());
  try {
    Writer writer(staged);
    Header header = expected(bundle_);
    header.length = length();
    header.version = spans_.empty() ? kVersion : kVisionVersion;
    writer.put(&header, sizeof header);
    if (!spans_.empty()) {
      const std::vector<SavedSpan> spans = saved(spans_);
      VisionHeader vision{{}, static_cast<std::int64_t>(spans.size())};
      std::memcpy(vision.vision, bundle_.vision->sha256.data(), sizeof vision.vision);
      writer.put(&vision, sizeof vision);
      writer.put(spans.data(), spans.size() * sizeof(SavedSpan));
    }
    writer.put(tokens_.data(), tokens_.size() * sizeof(std::int32_t));
    visit_state(length(), spans_.gap(), [&](std::span<std::byte> part) { writer.put(part.data(), part.size_bytes()); });
    writer.finish();
    std::filesystem::rename(staged, path);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(staged, ignored);
    throw;
  }
}

void Engine::load_state(const std::filesystem::path& path) {
  const File file = open(path, "rb");
  Header header;
  get(file.get(), path, &header, sizeof header);
  const Header want = expected(bundle_);
  if (std::memcmp(header.magic, want.magic, sizeof header.magic) != 0) {
    refuse(Status::bundle, path.string(), "no saved state", "a file written by save_state", "check the path");
  }
  if (header.version != kVersion && header.version != kVisionVersion) {
    refuse(Status::bundle, "version of " + path.string(), std::to_string(header.version),
           std::to_string(kVersion) + " or " + std::to_string(kVisionVersion),
           "save the state again with this farthing");
  }
  if (std::memcmp(header.graph, want.graph, sizeof header.graph) != 0 || header.layers != want.layers ||
      header.kv_heads != want.kv_heads || header.head_dim != want.head_dim) {
    refuse(Status::bundle, "model of " + path.string(), beginning(header.graph),
           bundle_.graph_sha256.substr(0, 12) + "...", "load it into the bundle it was saved from");
  }
  if (header.length < 0 || header.length > capacity()) {
    refuse(Status::request, "length of " + path.string(), std::to_string(header.length),
           "0 to " + std::to_string(capacity()), "open the bundle with a longer context");
  }
  const auto length = static_cast<std::size_t>(header.length);
  ImageSpans spans;
  if (header.version == kVisionVersion) spans = read_spans(file.get(), path, bundle_, header.length);
  const std::size_t images = spans.empty() ? 0 : sizeof(VisionHeader) + spans.all().size() * sizeof(SavedSpan);
  std::size_t parts = 0;
  visit_state(header.length, spans.gap(), [&](std::span<std::byte> part) { parts += part.size_bytes(); });
  const std::uintmax_t body = sizeof header + images + length * sizeof(std::int32_t) + parts;
  if (const auto size = std::filesystem::file_size(path); size != body + kDigest) {
    refuse(Status::bundle, "size of " + path.string(), std::to_string(size) + " bytes",
           std::to_string(body + kDigest) + " bytes", "save the state again");
  }
  check_digest(path, body);  // before anything is overwritten
  std::vector<std::int32_t> tokens(length);
  get(file.get(), path, tokens.data(), length * sizeof(std::int32_t));
  if (length > 0) check_prompt(tokens);
  for (const ImageSpan& span : spans.all()) {
    const auto first = tokens.begin() + span.begin;
    if (!std::all_of(first, first + span.rows, [this](std::int32_t id) { return is_marker(id); })) {
      refuse(Status::bundle, "tokens of an image in " + path.string(), "other ids", "its marker",
             "save the state again");
    }
  }
  tokens_.clear();  // from here on the old sequence is gone
  forget_image();
  spans_.clear();
  logits_ = {};
  visit_state(header.length, spans.gap(),
              [&](std::span<std::byte> part) { get(file.get(), path, part.data(), part.size_bytes()); });
  backend_->state_loaded();
  tokens_.assign(tokens.begin(), tokens.end());
  spans_ = std::move(spans);
}

}  // namespace farthing
