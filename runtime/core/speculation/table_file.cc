#include "table_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "../error.h"
#include "../sha256.h"

namespace farthing {
namespace {

struct Header {
  char magic[8];
  std::uint32_t version, vocab_size;
  char tokenizer[64];
  std::uint64_t pairs, tokens;
  std::uint32_t min_count, most;
};
static_assert(sizeof(Header) == 104 && sizeof(Header) % alignof(std::uint64_t) == 0);
static_assert(std::is_trivially_copyable_v<Successors> && sizeof(Successors) == 100 && alignof(Successors) == 4);
static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[] = "FARTHTRI";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kDigest = 64;
constexpr std::size_t kPair = sizeof(std::uint64_t) + sizeof(Successors);

[[noreturn]] void bad(const std::string& what, const std::string& found, const std::string& wanted) {
  refuse(Status::request, what, found, wanted, "build it with `farthing draft-table build` for this bundle");
}

// One pair with its successors, in the order that a search relies on.
bool sound(const Successors& s, std::int64_t vocab_size) {
  if (s.count < 1 || s.count > static_cast<std::int32_t>(Successors::kMost)) return false;
  for (std::size_t i = 0; i < static_cast<std::size_t>(s.count); ++i) {
    if (s.ids[i] < 0 || s.ids[i] >= vocab_size || !(s.scores[i] > 0 && s.scores[i] <= 1)) return false;
    if (i == 0) continue;
    if (s.scores[i] > s.scores[i - 1] || (s.scores[i] == s.scores[i - 1] && s.ids[i] <= s.ids[i - 1])) return false;
  }
  return true;
}

}  // namespace

TableFile::TableFile(const std::filesystem::path& path, std::int64_t vocab_size, const std::string& tokenizer) {
  const auto unreadable = [&](const char* why) {
    refuse(Status::request, "draft table " + path.string(), why, "a file that can be read", "check the path");
  };
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) unreadable(std::strerror(errno));
  struct stat about{};
  const bool plain = ::fstat(file, &about) == 0 && S_ISREG(about.st_mode);
  void* data = MAP_FAILED;
  if (plain && about.st_size > 0) {
    size_ = static_cast<std::size_t>(about.st_size);
    data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
  }
  ::close(file);
  if (!plain) unreadable("no plain file");
  if (size_ == 0) unreadable("empty");
  if (data == MAP_FAILED) unreadable("not to be mapped");
  data_ = static_cast<const unsigned char*>(data);
  try {
    check(path, vocab_size, tokenizer);
  } catch (...) {
    ::munmap(data, size_);
    throw;
  }
}

TableFile::~TableFile() { ::munmap(const_cast<unsigned char*>(data_), size_); }

void TableFile::check(const std::filesystem::path& path, std::int64_t vocab_size, const std::string& tokenizer) {
  const std::string file = "draft table " + path.string();
  Header header{};
  std::memcpy(&header, data_, std::min(size_, sizeof header));
  if (std::memcmp(header.magic, kMagic, sizeof header.magic) != 0) {
    bad(file, "some other file", std::string("one that begins with ") + kMagic);
  }
  if (header.version != kVersion) {
    bad("version of " + file, std::to_string(header.version), std::to_string(kVersion));
  }
  if (size_ < sizeof header + kDigest) bad(file, std::to_string(size_) + " bytes", "a whole file");
  // Divided, not multiplied: a wrong count cannot overflow.
  const std::size_t body = size_ - sizeof header - kDigest;
  if (body % kPair != 0 || body / kPair != header.pairs || header.pairs >= std::numeric_limits<std::uint32_t>::max()) {
    bad(file, std::to_string(size_) + " bytes for " + std::to_string(header.pairs) + " pairs", "108 bytes a pair");
  }
  Sha256 digest;
  digest.update(data_, size_ - kDigest);
  if (std::memcmp(digest.hex().data(), data_ + size_ - kDigest, kDigest) != 0) {
    bad(file, "changed or damaged: its SHA-256 differs", "as it was written");
  }
  if (static_cast<std::int64_t>(header.vocab_size) != vocab_size) {
    bad("vocabulary of " + file, std::to_string(header.vocab_size) + " tokens", std::to_string(vocab_size));
  }
  if (tokenizer.size() != kDigest || std::memcmp(header.tokenizer, tokenizer.data(), kDigest) != 0) {
    bad("tokenizer of " + file, "another", tokenizer.empty() ? "a bundle with one" : "the bundle's");
  }
  if (header.most != Successors::kMost) {
    bad("successors of " + file, std::to_string(header.most), std::to_string(Successors::kMost));
  }
  pairs_ = header.pairs;
  keys_ = reinterpret_cast<const std::uint64_t*>(data_ + sizeof header);
  successors_ = reinterpret_cast<const Successors*>(data_ + sizeof header + pairs_ * sizeof(std::uint64_t));
  index(file, vocab_size);
}

void TableFile::index(const std::string& file, std::int64_t vocab_size) {
  const auto vocabulary = static_cast<std::uint64_t>(vocab_size);
  first_.assign(static_cast<std::size_t>(vocab_size) + 1, 0);
  for (std::size_t i = 0; i < pairs_; ++i) {
    const std::uint64_t a = keys_[i] >> 32, b = keys_[i] & 0xFFFFFFFFu;
    if (a >= vocabulary || b >= vocabulary || (i > 0 && keys_[i] <= keys_[i - 1]) ||
        !sound(successors_[i], vocab_size)) {
      bad("pair " + std::to_string(i) + " of " + file, "malformed", "rising pairs of tokens with falling successors");
    }
    ++first_[static_cast<std::size_t>(a) + 1];
  }
  for (std::size_t a = 1; a < first_.size(); ++a) first_[a] += first_[a - 1];
}

const Successors* TableFile::find(std::int32_t a, std::int32_t b) const {
  const auto at = static_cast<std::size_t>(a);
  if (a < 0 || b < 0 || at + 1 >= first_.size()) return nullptr;
  const std::uint64_t wanted = static_cast<std::uint64_t>(a) << 32 | static_cast<std::uint32_t>(b);
  const std::uint64_t *begin = keys_ + first_[at], *end = keys_ + first_[at + 1];
  const std::uint64_t* found = std::lower_bound(begin, end, wanted);
  return found == end || *found != wanted ? nullptr : successors_ + (found - keys_);
}

}  // namespace farthing
