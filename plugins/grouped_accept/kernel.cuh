// CUDA kernels of farthing::GroupedAccept. Untested on GPU; run on the CPU by plugins/cuda/harness.
//
// One block a draft for the ratios, then one block for the walk and the draw. exact reads single numbers; grouped finds the codes nearest in
// rank by radix selection, at most 8 passes a side over p's row (65 KB at V = 16384, from L1 or L2 after the first); partition reads both rows
// and the table. Memory sees at most 2 * (L + 1) * V * sizeof(T) bytes at a few integer operations an element: bound by bandwidth, and
// with 16 drafts by latency. Running sums are float64, and masses of clusters 64-bit integers, so that neither depends on the order of threads.
#pragma once

#include "../cuda/unit_tiles.cuh"

namespace farthing::cuda {

enum class AcceptMode { exact, grouped, partition, neighbourhood };

inline constexpr int kAcceptShared = 40;  // doubles of shared memory: a sum of each warp and some results
inline constexpr int kBins = 256;
inline constexpr std::size_t kSelectShared = (kBins + 3) * sizeof(int);
inline constexpr Key kNoKey = ~Key{0};
inline constexpr float kMassUnit = 1099511627776.0f;  // 2^40: masses are counted in units of its inverse

template <class T>
struct AcceptProblem {
  const T *p, *q, *uniforms, *embeds;  // embeds or null
  const std::int64_t *draft, *table;   // table or null
  int length, codes, width, columns;
  AcceptMode mode;
  int before, after;  // codes of a group on either side of x
  float prob_tol, dist_tol, delta;
  bool relative;

  // Negative numbers and NaN count as 0.
  __device__ __forceinline__ static float positive(T x) {
    const float value = to_float(x);
    return value > 0.0f ? value : 0.0f;
  }
  __device__ __forceinline__ const T* p_row(int i) const { return p + static_cast<std::int64_t>(i) * codes; }
  __device__ __forceinline__ const T* q_row(int i) const { return q + static_cast<std::int64_t>(i) * codes; }
  // A device has nobody to tell of a code that is none.
  __device__ __forceinline__ int inside(std::int64_t code) const {
    return code < 0 ? 0 : code >= codes ? codes - 1 : static_cast<int>(code);
  }
  __device__ __forceinline__ int x(int i) const { return inside(draft[i]); }
  __device__ __forceinline__ int near(int i, int k) const {
    return inside(table[static_cast<std::int64_t>(x(i)) * columns + k]);
  }
};

__device__ __forceinline__ float chance_of(float above, float below) {
  if (!(below > 0.0f)) return 0.0f;
  const float ratio = above / below;
  return ratio < 1.0f ? ratio : ratio >= 1.0f ? 1.0f : 0.0f;
}

// The sum of a lane and all lanes below it.
__device__ __forceinline__ double warp_scan(double x) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int step = 1; step < kWarp; step *= 2) {
    const double below = __shfl_up_sync(kAllLanes, x, static_cast<unsigned>(step));
    if (lane >= step) x += below;
  }
  return x;
}

// The k-th smallest of the keys that key(0) .. key(n - 1) give, kNoKey left out, or something between it and the next; the largest key when there
// are fewer than k. `bins`: kSelectShared bytes of shared memory, free after the call.
template <class Of>
__device__ __forceinline__ Key kth_smallest(Of key, int n, int k, int* bins) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  int *digit = bins + kBins, *left = digit + 1, *count = digit + 2;
  Key prefix = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int b = thread; b < kBins; b += threads) bins[b] = 0;
    if (thread == 0) *digit = -1;
    __syncthreads();
    for (int i = thread; i < n; i += threads) {
      const Key own = key(i);
      if (own == kNoKey || (shift < 56 && own >> (shift + 8) != prefix >> (shift + 8))) continue;
      atomicAdd(&bins[static_cast<int>(own >> shift & (kBins - 1))], 1);
    }
    __syncthreads();
    if (thread < kWarp) {
      constexpr int kMine = kBins / kWarp;
      int mine = 0;
      for (int b = 0; b < kMine; ++b) mine += bins[thread * kMine + b];
      int below = static_cast<int>(warp_scan(mine)) - mine;  // counts are exact in float64
      for (int b = 0; b < kMine; ++b) {
        const int here = bins[thread * kMine + b];
        if (below < k && k <= below + here) {
          *digit = thread * kMine + b;
          *left = k - below;
          *count = here;
        }
        below += here;
      }
    }
    __syncthreads();
    const int chosen = *digit, rest = *left, size = *count;
    __syncthreads();
    if (chosen < 0) return kNoKey - 1;
    prefix |= static_cast<Key>(chosen) << shift;
    if (size == rest) return prefix | ((Key{1} << shift) - 1);  // all that begin so are taken
    k = rest;
  }
  return prefix;
}

// How many of x's nearest codes fit the budget; `sum` becomes that of their p. Every thread gets both. `shared`: kAcceptShared doubles, free
// after the call.
template <class T>
__device__ __forceinline__ int accept_prefix(const AcceptProblem<T>& a, int i, double* shared, double& sum) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int warp = thread / kWarp, lane = thread % kWarp;
  const T* row = a.p_row(i);
  double* last = shared + 32;
  int* stop = reinterpret_cast<int*>(shared + 33);
  const double budget = a.relative ? static_cast<double>(a.delta) * a.positive(row[a.x(i)]) : a.delta;
  int taken = 0;
  sum = 0;
  for (int first = 0; first < a.columns; first += threads) {
    const int k = first + thread;
    const double within = warp_scan(k < a.columns ? a.positive(row[a.near(i, k)]) : 0.0);
    if (lane == kWarp - 1) shared[warp] = within;
    if (thread == 0) *stop = threads;
    __syncthreads();
    double running = sum;
    for (int w = 0; w < warp; ++w) running += shared[w];
    running += within;
    if (k >= a.columns || !(running <= budget)) atomicMin(stop, thread);
    __syncthreads();
    const int good = *stop;
    if (thread == good - 1) *last = running;
    __syncthreads();
    if (good > 0) sum = *last;
    taken += good;
    __syncthreads();
    if (good < threads) break;
  }
  return taken;
}

// For codes on the side `before` of x in the order of p: the nearest have the smallest keys. All others have kNoKey.
template <class T>
__device__ __forceinline__ Key rank_key(const T* row, int c, int x, float own, bool before) {
  const float value = AcceptProblem<T>::positive(row[c]);
  const bool above = value > own || (value == own && c < x);
  if (c == x || above != before) return kNoKey;
  // Among equals the last is nearest before x, the first behind it.
  const auto order = static_cast<Key>(ordered(value)), index = static_cast<Key>(static_cast<unsigned>(c));
  return before ? order << 32 | (0xffffffffu - index) : (0xffffffffu - order) << 32 | index;
}

template <class T>
__device__ __forceinline__ bool near_enough(const AcceptProblem<T>& a, int c, int x, float value, float own) {
  if (!(fabsf(value - own) < a.prob_tol)) return false;
  if (a.embeds == nullptr) return true;
  const T *left = a.embeds + static_cast<std::int64_t>(c) * a.width,
          *right = a.embeds + static_cast<std::int64_t>(x) * a.width;
  float squares = 0;
  for (int e = 0; e < a.width; ++e) {
    const float gap = to_float(left[e]) - to_float(right[e]);
    squares += gap * gap;
  }
  return squares < a.dist_tol;
}

// chance of draft blockIdx.x, in float for the walk and in T for the output.
template <class T>
__global__ void accept_chance_kernel(AcceptProblem<T> a, float* exact, T* chance) {
  FARTHING_SHARED(double, shared);
  auto* sums = reinterpret_cast<float*>(shared);
  const int i = static_cast<int>(blockIdx.x), x = a.x(i);
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const T *ours = a.p_row(i), *theirs = a.q_row(i);
  const float own = a.positive(ours[x]);
  float above = own, below = a.positive(theirs[x]);
  // The mode is the same for all threads.
  if (a.mode == AcceptMode::grouped && a.before + a.after > 0) {
    auto* bins = reinterpret_cast<int*>(shared);
    const auto side = [=](bool before) { return [=](int c) { return rank_key(ours, c, x, own, before); }; };
    const Key last_before = a.before ? kth_smallest(side(true), a.codes, a.before, bins) : 0;
    const Key last_after = a.after ? kth_smallest(side(false), a.codes, a.after, bins) : 0;
    float more_above = 0, more_below = 0;
    for (int c = thread; c < a.codes; c += threads) {
      const float value = a.positive(ours[c]);
      const bool before = value > own || (value == own && c < x);
      const Key key = rank_key(ours, c, x, own, before);
      const bool wanted = before ? a.before > 0 && key <= last_before : a.after > 0 && key <= last_after;
      if (c == x || !wanted || !near_enough(a, c, x, value, own)) continue;
      more_above += value;
      more_below += a.positive(theirs[c]);
    }
    above += block_sum(more_above, sums);
    below += block_sum(more_below, sums);
  } else if (a.mode == AcceptMode::partition) {
    const int cluster = a.inside(a.table[x]);
    above = below = 0;
    for (int c = thread; c < a.codes; c += threads) {
      if (a.inside(a.table[c]) != cluster) continue;
      above += a.positive(ours[c]);
      below += a.positive(theirs[c]);
    }
    above = block_sum(above, sums);
    below = block_sum(below, sums);
  } else if (a.mode == AcceptMode::neighbourhood) {
    double sum;
    accept_prefix(a, i, shared, sum);
    above = static_cast<float>(own + sum);
  }
  if (thread == 0) {
    exact[i] = chance_of(above, below);
    if (chance != nullptr) chance[i] = from_float<T>(exact[i]);
  }
}

// The first index, ascending, whose running sum exceeds u * total; -1 when there is nothing to sum. Every thread gets it. A warp sums a
// segment, then the one in whose segment the draw ends goes through it. `shared`: kAcceptShared doubles, free after the call.
template <class Weight>
__device__ __forceinline__ int block_draw(Weight weight, int n, float u, double* shared) {
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const auto each = static_cast<int>(ceil_div(ceil_div(n, warps), kWarp) * kWarp);
  const int begin = min(warp * each, n), end = min(begin + each, n);
  int* found = reinterpret_cast<int*>(shared + 33);
  double sum = 0;
  for (int c = begin + lane; c < end; c += kWarp) sum += weight(c);
  for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  if (lane == 0) shared[warp] = sum;
  if (thread == 0) *found = n - 1;  // of an infinite sum
  __syncthreads();
  double total = 0;
  for (int w = 0; w < warps; ++w) total += shared[w];
  const double limit = u * total;
  double running = 0;
  int chosen = 0;
  while (chosen < warps && running + shared[chosen] <= limit) running += shared[chosen++];
  if (warp == chosen && total > 0) {
    for (int first = begin; first < n; first += kWarp) {  // beyond its end if rounding wants it
      const int c = first + lane;
      const double within = running + warp_scan(c < n ? weight(c) : 0.0);
      const unsigned hits = __ballot_sync(kAllLanes, c < n && within > limit);
      if (hits != 0) {
        if (lane == 0) *found = first + __ffs(static_cast<int>(hits)) - 1;
        break;
      }
      running = __shfl_sync(kAllLanes, within, kWarp - 1);
    }
  }
  __syncthreads();
  const int result = total > 0 ? *found : -1;
  __syncthreads();
  return result;
}

// The walk and the draw, by one block. mask: a byte a code (neighbourhood), mass: two counters a code (partition).
template <class T>
__global__ void accept_next_kernel(AcceptProblem<T> a, const float* exact, unsigned char* mask, Key* mass,
                                   std::int64_t* accepted, std::int64_t* next) {
  FARTHING_SHARED(double, shared);
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x), n = a.codes;
  int i = 0;
  while (i < a.length && to_float(a.uniforms[i]) < exact[i]) ++i;  // the same for all threads
  const float u = to_float(a.uniforms[a.length]);
  const T* ours = a.p_row(i);
  const bool refused = i < a.length;
  const T* theirs = a.q_row(refused ? i : 0);
  const int x = a.x(refused ? i : 0);
  int code = -1;
  if (refused && a.mode == AcceptMode::partition) {
    Key* lost = mass + n;
    for (int c = thread; c < 2 * n; c += threads) mass[c] = 0;
    __syncthreads();
    for (int c = thread; c < n; c += threads) {
      const int cluster = a.inside(a.table[c]);
      atomicAdd(&mass[cluster], static_cast<Key>(fminf(a.positive(ours[c]), kMassUnit / 65536) * kMassUnit + 0.5f));
      atomicAdd(&lost[cluster], static_cast<Key>(fminf(a.positive(theirs[c]), kMassUnit / 65536) * kMassUnit + 0.5f));
    }
    __syncthreads();
    code = block_draw(
        [=](int c) {
          const int cluster = a.inside(a.table[c]);
          if (mass[cluster] <= lost[cluster]) return 0.0;
          const auto rest = static_cast<double>(mass[cluster] - lost[cluster]) / static_cast<double>(mass[cluster]);
          return rest * a.positive(ours[c]);
        },
        n, u, shared);
  } else if (refused && a.mode == AcceptMode::neighbourhood) {
    double sum;
    const int taken = accept_prefix(a, i, shared, sum);
    for (int c = thread; c < n; c += threads) mask[c] = 0;
    __syncthreads();
    for (int k = thread; k < taken; k += threads) mask[a.near(i, k)] = 1;
    __syncthreads();
    if (thread == 0) mask[x] = 2;
    __syncthreads();
    const double relaxed = a.positive(ours[x]) + sum;
    code = block_draw(
        [=](int c) {
          const double own = mask[c] == 0 ? a.positive(ours[c]) : mask[c] == 1 ? 0.0 : relaxed;
          const double rest = own - a.positive(theirs[c]);
          return rest > 0 ? rest : 0.0;
        },
        n, u, shared);
    if (code < 0) {
      code = block_draw([=](int c) { return mask[c] == 0 ? static_cast<double>(a.positive(ours[c])) : 0.0; }, n, u,
                        shared);
    }
  } else if (refused) {
    code = block_draw(
        [=](int c) {
          const double rest = static_cast<double>(a.positive(ours[c])) - a.positive(theirs[c]);
          return rest > 0 ? rest : 0.0;
        },
        n, u, shared);
  }
  if (code < 0) code = block_draw([=](int c) { return static_cast<double>(a.positive(ours[c])); }, n, u, shared);
  if (thread == 0) {
    if (accepted != nullptr) *accepted = i;
    if (next != nullptr) *next = code < 0 ? n - 1 : code;
  }
}

}  // namespace farthing::cuda
