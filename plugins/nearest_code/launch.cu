// Device half of farthing::NearestCode: rules, workspace, types and grids. See plugins/cuda/operator.h.
#include "../cuda/operator.h"
#include "kernel.cuh"

namespace farthing::cuda {
namespace {

constexpr const char* kOp = "NearestCode";
constexpr unsigned kThreads = 256;
constexpr std::int64_t kMostCodes = (std::int64_t{1} << 31) - 1;

// Where the parts of the workspace begin; `bytes` is the end.
struct Parts {
  std::size_t factor, bias, meant, found, bytes = 0;

  explicit Parts(const Call& c) {
    const auto codes = static_cast<std::size_t>(c.size("V")), count = static_cast<std::size_t>(c.size("N"));
    factor = add(codes * sizeof(float));
    bias = add(codes * sizeof(float));
    meant = add(count * sizeof(float));
    found = add(static_cast<std::size_t>(ceil_div(c.size("V"), kCodesPerBlock)) * count * sizeof(Key));
  }

 private:
  std::size_t add(std::size_t size) {
    const std::size_t begin = bytes;
    bytes += (size + 255) / 256 * 256;
    return begin;
  }
};

struct NearestCode {
  static constexpr const char* kName = kOp;

  static void rules(const Attributes& a) {
    const std::int64_t normalize = a.integer("normalize");
    if (normalize != 0 && normalize != 1) {
      refuse(kOp, "normalize", std::to_string(normalize), "0 or 1", "1 compares unit vectors");
    }
  }

  static void check(const Call& c) {
    const std::int64_t codes = c.size("V");
    if (codes == 0 || codes > kMostCodes) {
      refuse(kOp, "V", std::to_string(codes), "1 to " + std::to_string(kMostCodes), "check the table");
    }
  }

  static std::size_t workspace(const Call& c) { return Parts(c).bytes; }

  template <class T>
  static void typed(const Call& c) {
    const Parts at(c);
    auto* base = static_cast<std::byte*>(c.workspace);
    auto* factor = reinterpret_cast<float*>(base + at.factor);
    auto* bias = reinterpret_cast<float*>(base + at.bias);
    auto* meant = reinterpret_cast<float*>(base + at.meant);
    auto* found = reinterpret_cast<Key*>(base + at.found);
    const std::int64_t count = c.size("N"), codes = c.size("V");
    const int width = static_cast<int>(c.size("E"));
    if (count == 0) return;
    const auto blocks = [](std::int64_t threads) { return static_cast<unsigned>(ceil_div(threads, kThreads)); };
    const auto stretches = static_cast<unsigned>(ceil_div(codes, kCodesPerBlock));
    launch(code_lengths_kernel<T>, blocks(codes * kWarp), kThreads, 0, c.stream, c.in<T>(1), factor, bias, codes, width,
           c.attributes->integer("normalize") != 0);
    launch(code_lengths_kernel<T>, blocks(count * kWarp), kThreads, 0, c.stream, c.in<T>(0), meant, nullptr, count,
           width, false);
    launch(nearest_tile_kernel<T>, dim3(static_cast<unsigned>(ceil_div(count, kTile)), stretches),
           static_cast<unsigned>(kTileThreads), kTileShared, c.stream, c.in<T>(0), c.in<T>(1), meant, factor, bias,
           found, count, codes, width);
    launch(nearest_best_kernel, blocks(count), kThreads, 0, c.stream, found, meant, c.out<std::int64_t>(0), count,
           static_cast<int>(stretches));
  }

  static void run(const Call& c) { c.type(0) == Type::f16 ? typed<Half>(c) : typed<float>(c); }
};

Registered<NearestCode> registered;

}  // namespace
}  // namespace farthing::cuda
