// What tokenizer.h promises beyond the ids: one Tokenizer serves several threads, and StreamDecoder::push into a warm
// string allocates nothing.
//
//   tokenizer_promises tokenizer.json < text

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace {
std::atomic<long> allocations{0};
}

void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const auto tokenizer = farthing::Tokenizer::from_file(argv[1]);
  const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  const std::vector<std::int32_t> ids = tokenizer.encode(text);

  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        if (tokenizer.encode(text) != ids || tokenizer.decode(ids) != tokenizer.decode(ids)) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();

  farthing::StreamDecoder stream(tokenizer);
  std::string out;
  long counted = 0;
  for (int round = 0; round < 2; ++round) {  // the first warms up
    out.clear();
    const long before = allocations;
    for (const std::int32_t id : ids) stream.push(id, out);
    counted = allocations - before;
    stream.flush();
  }
  std::printf("%zu ids, %d wrong, %ld allocations while streaming\n", ids.size(), wrong.load(), counted);
  return wrong || counted ? 1 : 0;
}
