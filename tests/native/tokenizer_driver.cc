// Lets a Python test talk to the C++ tokenizer: requests on stdin, answers on stdout, little-endian binary.
//
//   tokenizer_driver tokenizer.json
//   request:  u8 operation, u8 flags, u32 size, payload
//   answer:   u32 size, payload; size 0xFFFFFFFF announces an error: u32 size, message
//
// Operations: 'e' encode text -> i32 ids (flags: 1 add_special_tokens, 2 parse_special)
//             'd' decode i32 ids -> text, 's' the same by StreamDecoder, one id at a time (flags: 1 skip_special)
//             'i' information -> i32 vocab_size, i32 id_limit
//             'b' encode text repeatedly -> f64 CPU seconds per pass (flags: number of passes)

#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace {

using farthing::Tokenizer;

void write_u32(std::uint32_t value) { std::fwrite(&value, sizeof value, 1, stdout); }

void answer(const void* data, std::size_t size) {
  write_u32(static_cast<std::uint32_t>(size));
  if (size > 0) std::fwrite(data, 1, size, stdout);
}

void answer_error(const std::string& message) {
  write_u32(0xFFFFFFFF);
  answer(message.data(), message.size());
}

std::vector<std::int32_t> as_ids(const std::string& payload) {
  std::vector<std::int32_t> ids(payload.size() / sizeof(std::int32_t));
  if (!ids.empty()) std::memcpy(ids.data(), payload.data(), ids.size() * sizeof(std::int32_t));
  return ids;
}

double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

void serve(const Tokenizer& tokenizer, char operation, unsigned flags, const std::string& payload) {
  if (operation == 'e') {
    const auto ids = tokenizer.encode(payload, flags & 1, flags & 2);
    answer(ids.data(), ids.size() * sizeof ids[0]);
  } else if (operation == 'd') {
    const std::string text = tokenizer.decode(as_ids(payload), flags & 1);
    answer(text.data(), text.size());
  } else if (operation == 's') {
    farthing::StreamDecoder stream(tokenizer, flags & 1);
    std::string text;
    for (int round = 0; round < 2; ++round) {  // twice: flush must leave the decoder as new
      text.clear();
      for (const std::int32_t id : as_ids(payload)) text += stream.push(id);
      text += stream.flush();
    }
    answer(text.data(), text.size());
  } else if (operation == 'i') {
    const std::int32_t numbers[] = {tokenizer.vocab_size(), tokenizer.id_limit()};
    answer(numbers, sizeof numbers);
  } else if (operation == 'b') {
    const double start = cpu_seconds();
    for (unsigned i = 0; i < flags; ++i) tokenizer.encode(payload);
    const double seconds = (cpu_seconds() - start) / flags;
    answer(&seconds, sizeof seconds);
  } else {
    answer_error("unknown operation");
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s tokenizer.json\n", argv[0]);
    return 2;
  }
  try {
    const Tokenizer tokenizer = Tokenizer::from_file(argv[1]);
    answer("ready", 5);
    std::fflush(stdout);
    char head[6];
    while (std::fread(head, sizeof head, 1, stdin) == 1) {
      std::uint32_t size = 0;
      std::memcpy(&size, head + 2, sizeof size);
      std::string payload(size, '\0');
      if (size > 0 && std::fread(payload.data(), size, 1, stdin) != 1) return 1;
      try {
        serve(tokenizer, head[0], static_cast<unsigned char>(head[1]), payload);
      } catch (const farthing::TokenizerError& error) {
        answer_error(error.what());
      }
      std::fflush(stdout);
    }
  } catch (const farthing::TokenizerError& error) {
    answer_error(error.what());
    std::fflush(stdout);
    return 1;
  }
  return 0;
}
