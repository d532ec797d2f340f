#include "sha256.h"

#include <openssl/evp.h>

#include <cstdio>
#include <memory>
#include <vector>

#include "error.h"

namespace farthing {

Sha256::Sha256() : state_(EVP_MD_CTX_new()) {
  if (state_ == nullptr || EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(state_), EVP_sha256(), nullptr) != 1) {
    throw Error(Status::internal, "SHA-256 is unavailable, expected libcrypto to provide it; rebuild farthing");
  }
}

Sha256::~Sha256() { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(state_)); }

void Sha256::update(const void* data, std::size_t bytes) {
  EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(state_), data, bytes);
}

std::string Sha256::hex() {
  unsigned char digest[32];
  EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(state_), digest, nullptr);
  std::string text;
  for (const unsigned char byte : digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

std::string sha256_of(const std::filesystem::path& path) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) refuse(Status::bundle, path.string(), "unreadable", "a readable file", "check its permissions");
  std::vector<char> piece(1 << 20);
  Sha256 digest;
  while (const std::size_t got = std::fread(piece.data(), 1, piece.size(), file.get()))
    digest.update(piece.data(), got);
  if (std::ferror(file.get())) refuse(Status::bundle, path.string(), "unreadable", "a readable file", "check the disk");
  return digest.hex();
}

}  // namespace farthing
