// Device half of farthing::KvCompact: types and grid. See plugins/cuda/operator.h.
#include "../cuda/operator.h"
#include "kernel.cuh"

namespace farthing::cuda {
namespace {

constexpr std::int64_t kMostThreads = 128;

struct KvCompact {
  static constexpr const char* kName = "KvCompact";

  template <class T>
  static void typed(const Call& c) {
    const std::int64_t batch = c.size("B"), heads = c.size("Hkv"), dim = c.size("dh");
    const CompactShape s{heads, c.size("C"), dim, c.size("N")};
    const auto bytes = static_cast<std::size_t>(batch * heads * s.capacity * dim) * sizeof(T);
    copy(c.out<T>(0), c.in<T>(0), bytes, c.stream);
    copy(c.out<T>(1), c.in<T>(1), bytes, c.stream);
    if (bytes == 0 || s.listed == 0) return;
    launch(kv_compact_kernel<T>, dim3(static_cast<unsigned>(batch * heads), 2),
           static_cast<unsigned>(std::min(kMostThreads, ceil_div(dim, kWarp) * kWarp)), 0, c.stream,
           c.in<std::int64_t>(2), c.in<std::int64_t>(3), c.in<std::int64_t>(4), c.out<T>(0), c.out<T>(1), s);
  }

  static void run(const Call& c) { c.type(0) == Type::f16 ? typed<Half>(c) : typed<float>(c); }
};

Registered<KvCompact> registered;

}  // namespace
}  // namespace farthing::cuda
