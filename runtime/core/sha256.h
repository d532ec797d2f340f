// SHA-256, by OpenSSL's libcrypto (which uses the processor's SHA instructions).
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace farthing {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void update(const void* data, std::size_t bytes);
  std::string hex();  // finishes; call once

 private:
  void* state_;
};

// Lower-case hex digest of a file. Throws Error(bundle) when it cannot be read.
std::string sha256_of(const std::filesystem::path& path);

}  // namespace farthing
