// Device half of farthing::Linear: types and grids. See plugins/cuda/operator.h.
#include "../cuda/operator.h"
#include "kernel.cuh"

namespace farthing::cuda {
namespace {

constexpr std::int64_t kWarpsPerBlock = 4;

struct Linear {
  static constexpr const char* kName = "Linear";

  template <class T, class W, int kRows>
  static void few(const Call& c, std::int64_t rows) {
    if constexpr (kRows > 1) {
      if (rows < kRows) return few<T, W, kRows - 1>(c, rows);
    }
    const std::int64_t n = c.size("N");
    launch(linear_rows_kernel<T, W, kRows>, static_cast<unsigned>(ceil_div(n, kWarpsPerBlock)),
           static_cast<unsigned>(kWarpsPerBlock * kWarp), 0, c.stream, c.in<T>(0), c.in<W>(1), c.in<T>(2), c.out<T>(0),
           n, c.size("K"));
  }

  template <class T, class W>
  static void typed(const Call& c) {
    const std::int64_t rows = c.rows(), n = c.size("N");
    if (rows == 0) return;
    if (rows <= kFewRows) return few<T, W, kFewRows>(c, rows);
    const dim3 grid(static_cast<unsigned>(ceil_div(n, kTile)), static_cast<unsigned>(ceil_div(rows, kTile)));
    launch(linear_tile_kernel<T, W>, grid, kTileThreads, 2 * kTile * (kDepth + 1) * sizeof(float), c.stream, c.in<T>(0),
           c.in<W>(1), c.in<T>(2), c.out<T>(0), rows, n, c.size("K"));
  }

  static void run(const Call& c) {
    const bool half_x = c.type(0) == Type::f16, half_w = c.type(1) == Type::f16;
    if (half_x) return half_w ? typed<Half, Half>(c) : typed<Half, float>(c);
    half_w ? typed<float, Half>(c) : typed<float, float>(c);
  }
};

Registered<Linear> registered;

}  // namespace
}  // namespace farthing::cuda
