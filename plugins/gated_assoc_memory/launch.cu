// Device half of farthing::GatedAssocMemory: rules, workspace, types and grids. See plugins/cuda/operator.h.
#include "../assoc_memory_read/launch.cuh"
#include "kernel.cuh"

namespace farthing::cuda {
namespace {

constexpr const char* kOp = "GatedAssocMemory";
enum Input : std::size_t { kN, kState, kConvW, kConvB, kMem, kGateW, kGateB, kStep };

struct GatedAssocMemory {
  static constexpr const char* kName = kOp;

  static GamMode mode_of(const Attributes& a) {
    const std::string& mode = a.text("mode");
    return mode == "gate"     ? GamMode::gate
           : mode == "sum"    ? GamMode::sum
           : mode == "global" ? GamMode::global
                              : GamMode::local;
  }

  static void rules(const Attributes& a) {
    const std::int64_t taps = a.integer("kernel_size"), window = a.integer("return_window");
    if (taps < 2) {
      refuse(kOp, "kernel_size", std::to_string(taps), "2 or more",
             "a convolution of one tap has no state: such a model is not supported");
    }
    if (window != 0 && window != 1) refuse(kOp, "return_window", std::to_string(window), "0 or 1", "export again");
  }

  static void check(const Call& c) {
    const GamMode mode = mode_of(*c.attributes);
    const auto need = [&](std::size_t input, const char* name, bool wanted) {
      if (wanted && !c.has(input)) {
        refuse(kOp, name, "missing", "a tensor in mode " + c.attributes->text("mode"), "connect it");
      }
    };
    need(kConvW, "conv_w", mode != GamMode::global);
    need(kMem, "mem", mode != GamMode::local);
    need(kGateW, "gate_w", mode == GamMode::gate);
    if (mode != GamMode::local) check_bank(kOp, c, kMem, kStep, c.size("C"));
  }

  static Bank bank(const Call& c) {
    if (mode_of(*c.attributes) == GamMode::local) return {nullptr, nullptr, 0, c.size("C")};
    return {&c.inputs[kMem], c.has(kStep) ? &c.inputs[kStep] : nullptr, c.size("M"), c.size("C")};
  }
  static std::int64_t gate_floats(const Call& c) {
    return mode_of(*c.attributes) == GamMode::gate ? c.size("B") * c.size("T") * 2 * c.size("C") : 0;
  }

  static std::size_t workspace(const Call& c) {
    return static_cast<std::size_t>(gate_floats(c) + bank(c).floats(c.size("B") * c.size("T"))) * sizeof(float);
  }

  template <class T>
  static void typed(const Call& c) {
    const std::int64_t batch = c.size("B"), rows = c.size("T"), width = c.size("C"), all = batch * rows;
    const std::int64_t taps = c.attributes->integer("kernel_size");
    const GamMode mode = mode_of(*c.attributes);
    const Bank memory = bank(c);
    auto* gates = static_cast<float*>(c.workspace);
    const Partial parts(gates + gate_floats(c), memory.spans(), all);
    const auto threads = static_cast<unsigned>(kMemoryThreads);
    const auto across = static_cast<unsigned>(ceil_div(width, kMemoryThreads));
    if (all > 0 && mode != GamMode::local) {
      read_bank<T>(memory, c.in<T>(kN), all, c.attributes->real("scale"), parts, c.stream);
    }
    if (mode == GamMode::gate) {
      const dim3 grid(static_cast<unsigned>(ceil_div(all, kMemoryBlockRows)),
                      static_cast<unsigned>(ceil_div(2 * width, kMemoryWarps)));
      if (c.type(kGateW) == Type::f16) {
        launch(gate_kernel<T, Half>, grid, threads, std::size_t{0}, c.stream, c.in<T>(kN), c.in<Half>(kGateW), gates,
               all, width);
      } else {
        launch(gate_kernel<T, float>, grid, threads, std::size_t{0}, c.stream, c.in<T>(kN), c.in<float>(kGateW), gates,
               all, width);
      }
    }
    launch(mix_kernel<T>, dim3(static_cast<unsigned>(all), across), threads, std::size_t{0}, c.stream, c.in<T>(kN),
           c.in<T>(kState), c.in<T>(kConvW), c.in<T>(kConvB), gates, c.in<T>(kGateB), parts.best, parts.total,
           parts.sums, c.out<T>(0), rows, all, width, taps, memory.spans(), mode);
    const std::int64_t kept = taps - 1 + (c.attributes->integer("return_window") ? rows : 0);
    launch(state_kernel<T>, dim3(static_cast<unsigned>(batch * kept), across), threads, std::size_t{0}, c.stream,
           c.in<T>(kN), c.in<T>(kState), c.out<T>(1), rows, width, taps, kept);
  }

  static void run(const Call& c) { c.type(kN) == Type::f16 ? typed<Half>(c) : typed<float>(c); }
};

Registered<GatedAssocMemory> registered;

}  // namespace
}  // namespace farthing::cuda
