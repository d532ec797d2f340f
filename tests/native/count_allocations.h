// operator new and malloc of a test program that count who asked; include it in one file only.
//
// Who asked is told by the return address: operator new of this program counts callers inside it (the core is linked in statically), malloc
// counts callers inside libfarthing_ops.so (which has its own copy of the C++ library). What ONNX Runtime allocates is its own affair.
#pragma once

#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

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
