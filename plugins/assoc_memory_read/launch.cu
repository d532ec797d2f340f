// Device half of farthing::AssocMemoryRead: rules, workspace, types and grids. See plugins/cuda/operator.h.
#include "launch.cuh"

namespace farthing::cuda {
namespace {

constexpr const char* kOp = "AssocMemoryRead";

struct AssocMemoryRead {
  static constexpr const char* kName = kOp;

  static Bank bank(const Call& c) {
    return {&c.inputs[1], c.has(2) ? &c.inputs[2] : nullptr, c.size("M"), c.size("C")};
  }
  static std::int64_t wanted(const Call& c) {
    const std::int64_t k = c.attributes->integer("top_k");
    return k < c.size("M") ? k : 0;  // all of them is no selection
  }

  static void rules(const Attributes& a) {
    const std::int64_t k = a.integer("top_k");
    if (k < 0) refuse(kOp, "top_k", std::to_string(k), "0 (all) or more", "export again");
  }

  static void check(const Call& c) {
    const std::int64_t m = c.size("M"), width = c.size("C"), k = c.attributes->integer("top_k");
    check_bank(kOp, c, 1, 2, width);
    if (m < 0 || width < 0) return;  // not known yet
    if (k > m) refuse(kOp, "top_k", std::to_string(k), "0 (all) to " + std::to_string(m), "export again");
    if (k > 0 && k < m && memory_top_shared(m, width, k) > kMostShared) {
      refuse(kOp, "M", std::to_string(m), "fewer slots for top_k on a device", "use top_k = 0");
    }
  }

  static std::size_t workspace(const Call& c) {
    return wanted(c) ? 0 : static_cast<std::size_t>(bank(c).floats(c.rows())) * sizeof(float);
  }

  template <class T, class W>
  static void top(const Call& c) {
    const std::int64_t m = c.size("M"), width = c.size("C"), k = wanted(c);
    launch(memory_top_kernel<T, W>, static_cast<unsigned>(c.rows()), static_cast<unsigned>(kMemoryThreads),
           memory_top_shared(m, width, k), c.stream, c.in<T>(0), c.in<W>(1), c.in<T>(2), c.out<T>(0), m, width, k,
           c.attributes->real("scale"));
  }

  template <class T>
  static void typed(const Call& c) {
    const std::int64_t rows = c.rows(), width = c.size("C");
    if (rows == 0) return;
    if (wanted(c)) {
      c.type(1) == Type::i8 ? top<T, std::int8_t>(c) : c.type(1) == Type::f16 ? top<T, Half>(c) : top<T, float>(c);
      return;
    }
    const Bank memory = bank(c);
    const Partial parts(static_cast<float*>(c.workspace), memory.spans(), rows);
    read_bank<T>(memory, c.in<T>(0), rows, c.attributes->real("scale"), parts, c.stream);
    launch(memory_merge_kernel<T>,
           dim3(static_cast<unsigned>(rows), static_cast<unsigned>(ceil_div(width, kMemoryThreads))),
           static_cast<unsigned>(kMemoryThreads), std::size_t{0}, c.stream, parts.best, parts.total, parts.sums,
           c.out<T>(0), memory.spans(), rows, width);
  }

  static void run(const Call& c) { c.type(0) == Type::f16 ? typed<Half>(c) : typed<float>(c); }
};

Registered<AssocMemoryRead> registered;

}  // namespace
}  // namespace farthing::cuda
