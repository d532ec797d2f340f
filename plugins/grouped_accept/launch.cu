// Device half of farthing::GroupedAccept: rules, workspace, types and grids. See plugins/cuda/operator.h.
#include <cmath>

#include "../cuda/operator.h"
#include "kernel.cuh"

namespace farthing::cuda {
namespace {

constexpr const char* kOp = "GroupedAccept";
constexpr std::int64_t kChanceThreads = 256,
                       kNextThreads = 1024;  // 16 codes a thread of the block that draws, at V = 16384

std::string number(std::int64_t n) { return std::to_string(n); }

struct GroupedAccept {
  static constexpr const char* kName = kOp;

  static AcceptMode mode_of(const Attributes& a) {
    const std::string& mode = a.text("mode");
    return mode == "exact"       ? AcceptMode::exact
           : mode == "grouped"   ? AcceptMode::grouped
           : mode == "partition" ? AcceptMode::partition
                                 : AcceptMode::neighbourhood;
  }

  static void rules(const Attributes& a) {
    const std::int64_t size = a.integer("group_size"), relative = a.integer("relative");
    const float delta = a.real("delta");
    if (size < 1) refuse(kOp, "group_size", number(size), "1 or more", "1 is the exact rule");
    for (const char* name : {"prob_tol", "dist_tol"}) {
      if (!(a.real(name) >= 0.0f)) {
        refuse(kOp, name, std::to_string(a.real(name)), "0 or more", "0 keeps the draft alone in its group");
      }
    }
    if (relative != 0 && relative != 1) {
      refuse(kOp, "relative", number(relative), "0 or 1", "1 measures delta in units of the draft's own probability");
    }
    if (!(delta >= 0.0f && std::isfinite(delta))) {
      refuse(kOp, "delta", std::to_string(delta), "0 or more and finite", "0 is the exact rule");
    }
    if (relative == 0 && delta >= 1.0f) {
      refuse(kOp, "delta", std::to_string(delta), "below 1",
             "1 accepts every draft; for a multiple of p(x) set relative to 1");
    }
  }

  static void check(const Call& c) {
    const std::string& name = c.attributes->text("mode");
    const AcceptMode mode = mode_of(*c.attributes);
    const bool tabled = mode == AcceptMode::partition || mode == AcceptMode::neighbourhood;
    if (tabled && !c.has(5)) {
      refuse(kOp, "table", "absent", "present in mode " + name,
             mode == AcceptMode::partition ? "connect the cluster of each code"
                                           : "connect the nearest codes of each code");
    }
    if (!tabled && c.has(5)) {
      refuse(kOp, "table", "present", "absent in mode " + name, "drop it, or choose partition or neighbourhood");
    }
    const std::int64_t codes = c.size("V");
    if (c.size("L") == 0 || codes == 0) {
      refuse(kOp, "q", shape_of(c.inputs[1]), "[L,V] with L >= 1 and V >= 1", "give one distribution a draft");
    }
    if (codes > INT32_MAX / 4 || c.size("L") > INT32_MAX / 4) {
      refuse(kOp, "q", shape_of(c.inputs[1]), "below 2^29 codes and drafts", "check what is connected");
    }
    if (!tabled) return;
    const std::int64_t columns = c.size("K"), most = mode == AcceptMode::partition ? 1 : codes - 1;
    if (columns == 0 || (columns > 0 && codes > 0 && columns > most)) {
      refuse(kOp, "table", shape_of(c.inputs[5]),
             mode == AcceptMode::partition ? "[" + number(codes) + ",1]"
                                           : "[" + number(codes) + ",K] with K from 1 to " + number(most),
             "see mode " + name);
    }
  }

  // chance in float, a mask (neighbourhood), counters (partition): each begins at a multiple of 8.
  static std::size_t chances(const Call& c) {
    return (static_cast<std::size_t>(c.size("L")) * sizeof(float) + 7) / 8 * 8;
  }
  static std::size_t workspace(const Call& c) {
    const auto codes = static_cast<std::size_t>(c.size("V"));
    const AcceptMode mode = mode_of(*c.attributes);
    return chances(c) + (mode == AcceptMode::partition       ? 2 * codes * sizeof(Key)
                         : mode == AcceptMode::neighbourhood ? codes
                                                             : 0);
  }

  template <class T>
  static void typed(const Call& c) {
    const Attributes& attributes = *c.attributes;
    const std::int64_t size = attributes.integer("group_size"), half = size / 2, codes = c.size("V"),
                       length = c.size("L");
    AcceptProblem<T> a{};
    a.p = c.in<T>(0);
    a.q = c.in<T>(1);
    a.draft = c.in<std::int64_t>(2);
    a.uniforms = c.in<T>(3);
    a.embeds = c.in<T>(4);
    a.table = c.in<std::int64_t>(5);
    a.length = static_cast<int>(length);
    a.codes = static_cast<int>(codes);
    a.width = c.has(4) ? static_cast<int>(c.size("E")) : 0;
    a.columns = c.has(5) ? static_cast<int>(c.size("K")) : 0;
    a.mode = mode_of(attributes);
    a.before = static_cast<int>(std::min(half, codes));
    a.after = static_cast<int>(std::min(size - 1 - half, codes));
    a.prob_tol = attributes.real("prob_tol");
    a.dist_tol = attributes.real("dist_tol");
    a.delta = attributes.real("delta");
    a.relative = attributes.integer("relative") == 1;

    auto* exact = static_cast<float*>(c.workspace);
    std::byte* rest = static_cast<std::byte*>(c.workspace) + chances(c);
    const auto threads = [=](std::int64_t most) {
      return static_cast<unsigned>(std::min(most, ceil_div(codes, kWarp) * kWarp));
    };
    const std::size_t shared = std::max(kAcceptShared * sizeof(double), kSelectShared);
    launch(accept_chance_kernel<T>, static_cast<unsigned>(length), threads(kChanceThreads), shared, c.stream, a, exact,
           c.out<T>(2));
    launch(accept_next_kernel<T>, 1u, threads(kNextThreads), shared, c.stream, a, exact,
           reinterpret_cast<unsigned char*>(rest), reinterpret_cast<Key*>(rest), c.out<std::int64_t>(0),
           c.out<std::int64_t>(1));
  }

  static void run(const Call& c) { c.type(0) == Type::f16 ? typed<Half>(c) : typed<float>(c); }
};

Registered<GroupedAccept> registered;

}  // namespace
}  // namespace farthing::cuda
