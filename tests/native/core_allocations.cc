// Counts what farthing's own code allocates per decoded token after warm-up: the answer must be nothing.
//
//   core_allocations BUNDLE ONNXRUNTIME OPS [MARKER]   ->   "ours <n> all <m>" over 64 tokens; with MARKER, its id, behind an image
//
// Who asked is told by the return address: operator new of this program counts callers inside it (the core is linked in
// statically), malloc counts callers inside libfarthing_ops.so (which has its own copy of the C++ library). What ONNX Runtime
// allocates is its own affair.
#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "engine.h"

extern "C" void* __libc_malloc(std::size_t);
extern "C" char __executable_start, etext;

namespace {

std::atomic<bool> counting{false};
std::atomic<long> ours{0}, all{0};
const char *ops_begin = nullptr, *ops_end = nullptr;

void count(const void* caller, bool from_new) {
  if (!counting) return;
  const char* address = static_cast<const char*>(caller);
  const bool in_program = address >= &__executable_start && address < &etext;
  const bool in_ops = address >= ops_begin && address < ops_end;
  ++all;
  if ((from_new && in_program) || (!from_new && in_ops)) ++ours;
}

// The address range of the operator library, from /proc/self/maps.
void find_ops() {
  std::FILE* maps = std::fopen("/proc/self/maps", "r");
  char line[1024];
  while (maps && std::fgets(line, sizeof line, maps)) {
    if (std::strstr(line, "libfarthing_ops") == nullptr) continue;
    unsigned long begin = 0, end = 0;
    std::sscanf(line, "%lx-%lx", &begin, &end);
    if (!ops_begin) ops_begin = reinterpret_cast<const char*>(begin);
    ops_end = reinterpret_cast<const char*>(end);
  }
  if (maps) std::fclose(maps);
}

}  // namespace

extern "C" void* malloc(std::size_t bytes) {
  count(__builtin_return_address(0), false);
  return __libc_malloc(bytes);
}
void* operator new(std::size_t bytes) {
  count(__builtin_return_address(0), true);
  if (void* memory = __libc_malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) return 2;
  farthing::EngineOptions options;
  options.backend.onnxruntime = argv[2];
  options.backend.ops_library = argv[3];
  options.backend.threads = 1;
  options.backend.capacity = 256;
  farthing::Engine engine(argv[1], options);
  find_ops();
  if (!ops_begin) return 3;
  std::vector<std::int32_t> prompt{5, 6, 7};
  std::vector<farthing::ImageInput> images;
  const std::vector<std::uint8_t> grey(3 * 50 * 40, 99);
  if (argc == 5) {
    prompt[1] = std::atoi(argv[4]);
    images.push_back({{grey.data(), 50, 40, 3 * 40}, ""});
  }
  for (const double temperature : {0.0, 0.8}) {
    farthing::GenerateOptions how;
    how.max_new_tokens = 80;
    how.sampler.temperature = temperature;
    how.sampler.repetition_penalty = temperature ? 1.1 : 1;
    long seen = 0;
    engine.generate(
        prompt, how,
        [&](std::int32_t) {
          ++seen;
          if (seen == 10) counting = true;  // by now scratch memory has its size
          if (seen == 74) counting = false;
          return true;
        },
        images);
    counting = false;
    if (seen != 80) return 4;
  }
  std::printf("ours %ld all %ld\n", ours.load(), all.load());
  return 0;
}
