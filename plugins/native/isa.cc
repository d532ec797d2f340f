#include "isa.h"

#include <cstdlib>
#include <cstring>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace farthing {
namespace {

Isa detect() {
  Isa best = Isa::base;
#if defined(__x86_64__)
  // F16C has no name of its own in __builtin_cpu_supports of older compilers; every processor with AVX2 and FMA has it.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Isa::avx2;
  if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")) {
    best = Isa::avx512;
  }
#endif
  if (const char* wanted = std::getenv("FARTHING_MAX_ISA")) {
    if (std::strcmp(wanted, "base") == 0) return Isa::base;
    if (std::strcmp(wanted, "avx2") == 0 && best == Isa::avx512) return Isa::avx2;
  }
  return best;
}

}  // namespace

Isa selected_isa() {
  static const Isa isa = detect();
  return isa;
}

bool has_byte_dot() {
  const char* wanted = std::getenv("FARTHING_MAX_ISA");
  const bool lowered = wanted != nullptr && std::strcmp(wanted, "avx512vnni") != 0;
#if defined(__x86_64__)
  return !lowered && selected_isa() == Isa::avx512 && __builtin_cpu_supports("avx512vnni");
#elif defined(__aarch64__) && defined(__linux__)
  return !lowered && (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return false;
#endif
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
#if defined(__aarch64__)
      return "neon";
#else
      return "base";
#endif
  }
}

}  // namespace farthing
