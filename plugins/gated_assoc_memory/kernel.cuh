// CUDA kernels of farthing::GatedAssocMemory. Untested on GPU; run on the CPU by plugins/cuda/harness.
//
// The memory read of plugins/assoc_memory_read, the gates' logits (4 * C * C FLOP a row; gate_w is read once for 8 rows), and one kernel
// that merges the spans, convolves, gates and adds: 12 bytes and some 40 FLOP an element. For long prefills the two products would be
// better as tensor-core GEMMs, which is not done here.
#pragma once

#include "../assoc_memory_read/kernel.cuh"

namespace farthing::cuda {

enum class GamMode { gate, sum, global, local };

// gates[row, j] = n[row] . gate_w[j], without the bias. Grid: blocks of 8 rows, blocks of 8 columns; a warp a column.
template <class T, class G>
__global__ void gate_kernel(const T* n, const G* gate_w, float* gates, int rows, int c) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int first = static_cast<int>(blockIdx.x) * kMemoryBlockRows, mine = min(kMemoryBlockRows, rows - first);
  const int column = static_cast<int>(blockIdx.y) * kMemoryWarps + warp;
  if (column >= 2 * c) return;  // a whole warp; no barrier follows
  const T* x = n + static_cast<std::int64_t>(first) * c;
  const G* weight = gate_w + static_cast<std::int64_t>(column) * c;
  float dot[kMemoryBlockRows] = {};
  for (int i = lane; i < c; i += kWarp) {
    const float w = to_float(weight[i]);
    for (int r = 0; r < mine; ++r) dot[r] += to_float(x[r * c + i]) * w;
  }
  for (int r = 0; r < mine; ++r) {
    const float logit = warp_sum(dot[r]);
    if (lane == 0) gates[(static_cast<std::int64_t>(first) + r) * 2 * c + column] = logit;
  }
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// f of one row and 256 channels. Grid: batch * rows, blocks of channels.
template <class T>
__global__ void mix_kernel(const T* n, const T* state, const T* conv_w, const T* conv_b, const float* gates,
                           const T* gate_b, const float* best, const float* total, const float* sums, T* f, int rows,
                           int all, int c, int taps, int spans, GamMode mode) {
  const int row = static_cast<int>(blockIdx.x), i = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (i >= c) return;
  const int b = row / rows, t = row % rows;
  const std::int64_t at = static_cast<std::int64_t>(row) * c + i;
  float local = 0, glob = 0;
  if (mode != GamMode::local) glob = merged(best, total, sums, spans, all, c, row, i);
  if (mode != GamMode::global) {
    local = conv_b == nullptr ? 0.0f : to_float(conv_b[i]);
    for (int j = 0; j < taps; ++j) {
      const int source = t + j - (taps - 1);  // below 0: in the state
      const T value = source >= 0 ? n[(static_cast<std::int64_t>(b) * rows + source) * c + i]
                                  : state[(static_cast<std::int64_t>(b) * (taps - 1) + (taps - 1) + source) * c + i];
      local += to_float(conv_w[i * taps + j]) * to_float(value);
    }
  }
  if (mode == GamMode::gate) {
    const float* logits = gates + static_cast<std::int64_t>(row) * 2 * c;
    local *= sigmoid(logits[i] + (gate_b == nullptr ? 0.0f : to_float(gate_b[i])));
    glob *= sigmoid(logits[c + i] + (gate_b == nullptr ? 0.0f : to_float(gate_b[c + i])));
  }
  f[at] = from_float<T>(local + glob);
}

// The last `kept` rows of [state; n] of each sequence. Grid: batch * kept, blocks of channels.
template <class T>
__global__ void state_kernel(const T* n, const T* state, T* out, int rows, int c, int taps, int kept) {
  const int b = static_cast<int>(blockIdx.x) / kept, r = static_cast<int>(blockIdx.x) % kept;
  const int i = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (i >= c) return;
  const int source = r + (taps - 1 + rows - kept) - (taps - 1);  // a row of n, or below 0 of the state
  out[static_cast<std::int64_t>(blockIdx.x) * c + i] =
      source >= 0 ? n[(static_cast<std::int64_t>(b) * rows + source) * c + i]
                  : state[(static_cast<std::int64_t>(b) * (taps - 1) + (taps - 1) + source) * c + i];
}

}  // namespace farthing::cuda
