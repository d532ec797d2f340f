// Picks the widest instruction set this processor has, once.
//
// Each kernel header declares its functions with FARTHING_DECLARE_KERNEL, which puts one declaration into every namespace that
// is compiled on this target; FARTHING_SELECT(f) is the right one as a function pointer.
#pragma once

namespace farthing {

enum class Isa { base, avx2, avx512 };

// FARTHING_MAX_ISA=base|avx2|avx512|avx512vnni in the environment lowers the choice (tests run every build of a kernel that way).
Isa selected_isa();
const char* isa_name(Isa isa);
// Whether sums of four 8-bit products are one instruction here: AVX-512 VNNI, or NEON's dot products (Armv8.2). False with FARTHING_MAX_ISA, but for
// avx512vnni.
bool has_byte_dot();

}  // namespace farthing

#if defined(__x86_64__)
#define FARTHING_DECLARE_KERNEL(signature) \
  namespace base {                         \
  signature;                               \
  }                                        \
  namespace avx2 {                         \
  signature;                               \
  }                                        \
  namespace avx512 {                       \
  signature;                               \
  }
#define FARTHING_SELECT(function)                                                        \
  (::farthing::selected_isa() == ::farthing::Isa::avx512 ? &::farthing::avx512::function \
   : ::farthing::selected_isa() == ::farthing::Isa::avx2 ? &::farthing::avx2::function   \
                                                         : &::farthing::base::function)
#else
#define FARTHING_DECLARE_KERNEL(signature) \
  namespace base {                         \
  signature;                               \
  }
#define FARTHING_SELECT(function) (&::farthing::base::function)
#endif
