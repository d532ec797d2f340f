// Robustness: whatever tokenizer.json and text come in, the answer is ids or a TokenizerError, never a crash.
//
//   tokenizer_fuzz tokenizer.json [rounds] [seed]
//
// Meant to be built with -fsanitize=address,undefined. Mutates the file (cut, bytes changed, parts repeated, values
// swapped) and feeds random bytes to every tokenizer that still loads.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace {

using farthing::StreamDecoder;
using farthing::Tokenizer;
using farthing::TokenizerError;

std::mt19937_64 generator;

std::size_t below(std::size_t n) { return n ? generator() % n : 0; }

std::string random_text() {
  static const char* const parts[] = {
      "a",   " ",   "  ",  "\n",         "\xE2\x96\x81", "\xF0\x9F\x98\x80", "\xCC\x81",     "\xE2\x82", "\xFF",
      "the", "123", "<s>", "<|im_end|>", "\xED\xA0\x80", "\xC3\xA9",         "\xEA\xB0\x80", "'s",       "\t"};
  std::string text;
  const std::size_t length = below(60);
  for (std::size_t i = 0; i < length; ++i) {
    if (below(3) == 0)
      text += static_cast<char>(below(256));
    else
      text += parts[below(std::size(parts))];
  }
  return text;
}

std::string mutated(std::string json) {
  static const char* const values[] = {"null",          "-1",    "1e99",
                                       "true",          "{}",    "[]",
                                       "\"\"",          "\"x\"", "18446744073709551615",
                                       "\"\\ud800\"",   "\"(\"", "\"Sequence\"",
                                       "\"ByteLevel\"", "[[]]",  "\"(?i:\\\\p{L}\""};
  for (std::size_t n = 1 + below(4); n > 0 && !json.empty(); --n) {
    // The components stand before the vocabulary, and are what loads in the most ways.
    const std::size_t at = below(below(3) ? std::min<std::size_t>(json.size(), 3000) : json.size());
    switch (below(6)) {
      case 0:
        json.resize(at);
        break;
      case 1:
        json[at] = static_cast<char>(below(256));
        break;
      case 2:
        json.erase(at, 1 + below(20));
        break;
      case 3:
        json.insert(at, json.substr(below(json.size()), below(40)));
        break;
      default: {  // replace the value after some colon
        const std::size_t colon = json.find(':', at);
        if (colon == json.npos) break;
        const std::size_t end = json.find_first_of(",}]", colon);
        if (end != json.npos) json.replace(colon + 1, end - colon - 1, values[below(std::size(values))]);
      }
    }
  }
  return json;
}

// Encodes, decodes and streams; checks only that the stream agrees with the whole.
void exercise(const Tokenizer& tokenizer, int texts) {
  for (int i = 0; i < texts; ++i) {
    try {
      std::vector<std::int32_t> ids = tokenizer.encode(random_text(), below(2), below(2));
      for (std::size_t extra = below(6); extra > 0; --extra) {
        ids.push_back(
            static_cast<std::int32_t>(below(2) ? generator() : below(static_cast<std::size_t>(tokenizer.id_limit()))));
      }
      StreamDecoder stream(tokenizer);
      std::string text;
      for (const std::int32_t id : ids) stream.push(id, text);
      text += stream.flush();
      if (text != tokenizer.decode(ids)) {
        std::fprintf(stderr, "the stream differs from the whole\n");
        std::abort();
      }
    } catch (const TokenizerError&) {
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s tokenizer.json [rounds] [seed]\n", argv[0]);
    return 2;
  }
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 1000;
  generator.seed(argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1);
  std::ostringstream content;
  content << std::ifstream(argv[1], std::ios::binary).rdbuf();
  const std::string json = content.str();
  exercise(Tokenizer::from_json(json), 200);
  int loaded = 0;
  for (int round = 0; round < rounds; ++round) {
    try {
      const Tokenizer tokenizer = Tokenizer::from_json(mutated(json));
      ++loaded;
      exercise(tokenizer, 20);
    } catch (const TokenizerError&) {
    }
  }
  std::printf("%d rounds, %d still loaded\n", rounds, loaded);
  return 0;
}
