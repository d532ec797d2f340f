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
// Whether there is AVX-512 VNNI, and FARTHING_MAX_ISA is unset or avx512vnni.
bool has_vnni();

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
