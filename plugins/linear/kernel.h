// y[rows, n] = x[rows, k] * weight[n, k]^T + bias[n], from a weight that was packed once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../native/isa.h"
#include "../native/parallel.h"

namespace farthing {

// Outputs side by side in a packed weight: a cache line of floats, one AVX-512 register.
inline constexpr std::size_t kLinearPanel = 16;

struct LinearArgs {
  const float* x;
  const void* panels;  // made by pack_linear
  bool half;           // the weight is float16 bits; else float32
  const float* bias;   // may be null
  float* y;
  std::size_t rows, n, k;
  bool cached = false;  // the weight is likely in L3
};

inline std::size_t linear_panels(std::size_t n) { return (n + kLinearPanel - 1) / kLinearPanel; }

// Bytes of one packed panel.
inline std::size_t linear_panel_bytes(std::size_t k, bool half) {
  return kLinearPanel * k * (half ? sizeof(std::uint16_t) : sizeof(float));
}

// Packs panels [begin, end) of weight [n, k] in checkpoint layout into panels [ceil(n / 16), k, 16]; columns beyond n are zeros.
// `panels` should begin on a cache line.
void pack_linear(const void* weight, bool half, std::size_t n, std::size_t k, std::size_t begin, std::size_t end,
                 void* panels);

// Every y[r, c] is one chain of multiply-adds in the order of k, whatever the number of rows: a pass over 8 rows gives bit for
// bit what 8 passes over one row give. Speculative decoding relies on that.
FARTHING_DECLARE_KERNEL(void linear(const LinearArgs& args, const Parallel& parallel))

}  // namespace farthing
