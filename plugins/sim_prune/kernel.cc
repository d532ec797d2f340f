// Two products of unit rows, each reduced to a maximum tile by tile, so that no similarity matrix is ever stored.
//
// Bases are among the kept tokens, so what a pruned token copies is the better of the base it is nearest to, known from the
// first product, and the kept tokens that are no base. With N = 4096, a quarter bases and half pruned that is 3.1 + 2.1 million
// dot products where the body does 4.2 + 8.4.
#include "kernel.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "../native/row_dots.h"
#include "../native/unit_rows.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

// Columns of B at a time: the tile results stay in L1.
constexpr std::size_t kColumns = 64;

struct Nearest {
  float value;
  std::int32_t token;
};
struct Candidate {
  float value;
  std::int32_t token;
};
struct Better {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.value > b.value || (a.value == b.value && a.token < b.token);
  }
};

struct Layout {
  float *unit, *total, *score;                        // [N, stride], [stride], [N]
  Nearest* nearest;                                   // [N]
  Candidate* candidate;                               // [N]
  std::int32_t *base, *other, *kept, *pruned, *rank;  // [N] each
  std::uint8_t* is_base;                              // [N]
  std::byte* end;

  Layout(std::byte* memory, std::size_t tokens, std::size_t dim) : end(memory) {
    take(unit, tokens * dot_stride(dim));
    take(total, dot_stride(dim));
    take(score, tokens);
    take(nearest, tokens);
    take(candidate, tokens);
    for (std::int32_t** list : {&base, &other, &kept, &pruned, &rank}) take(*list, tokens);
    take(is_base, tokens);
  }

  template <class T>
  void take(T*& pointer, std::size_t count) {
    pointer = reinterpret_cast<T*>(end);
    end = reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(end) + count * sizeof(T) + 63) &
                                       ~std::uintptr_t{63});
  }
};

struct Plan {
  const SimPruneArgs& a;
  const Layout s;
  const Parallel& parallel;
  const std::size_t tokens = a.height * a.width, stride = dot_stride(a.dim);

  const float* unit(std::int32_t token) const { return s.unit + static_cast<std::size_t>(token) * stride; }

  template <class T>
  void normalise() const {
    constexpr std::size_t kRows = 64;
    const T* x = static_cast<const T*>(a.x);
    parallel((tokens + kRows - 1) / kRows, [&](std::size_t task) {
      for (std::size_t i = task * kRows; i < std::min((task + 1) * kRows, tokens); ++i) {
        const T* row = x + i * a.dim;
        copy_scaled(row, a.dim, row_scale(sum_of_squares(row, a.dim)), s.unit + i * stride);
      }
    });
  }

  // score = beta * (similarity to all, summed) + alpha * noise. The sum of products is one product with the sum.
  void score() const {
    const std::size_t padded = (a.dim + kLanes - 1) / kLanes * kLanes;
    parallel(padded / kLanes, [&](std::size_t lane) {
      Vec total = {};
      for (std::size_t i = 0; i < tokens;) {  // in blocks: the error grows with their number and size, not with N
        Vec block = {};
        for (const std::size_t end = std::min(i + 64, tokens); i < end; ++i) {
          block += load(s.unit + i * stride + lane * kLanes);
        }
        total += block;
      }
      store(s.total + lane * kLanes, total);
    });
    for (std::size_t i = 0; i < tokens; ++i) {
      Vec dot = {};
      for (std::size_t p = 0; p < padded; p += kLanes) dot += load(s.unit + i * stride + p) * load(s.total + p);
      const float noise = std::fabs(a.noise[i]) <= std::numeric_limits<float>::max() ? a.noise[i] : 0.0f;
      s.score[i] = a.beta * sum(dot) + a.alpha * noise;
    }
  }

  // Bases and others, both ascending.
  std::size_t choose_bases() const {
    std::fill_n(s.is_base, tokens, 0);
    for (std::size_t top = 0; top + a.patch_height <= a.height; top += a.patch_height) {
      for (std::size_t left = 0; left + a.patch_width <= a.width; left += a.patch_width) {
        std::size_t best = top * a.width + left;
        for (std::size_t i = 0; i < a.patch_height; ++i) {
          for (std::size_t j = 0; j < a.patch_width; ++j) {
            const std::size_t token = (top + i) * a.width + left + j;
            if (s.score[token] > s.score[best]) best = token;
          }
        }
        s.is_base[best] = 1;
      }
    }
    std::size_t bases = 0, others = 0;
    for (std::size_t i = 0; i < tokens; ++i) {
      (s.is_base[i] ? s.base[bases++] : s.other[others++]) = static_cast<std::int32_t>(i);
    }
    return bases;
  }

  // nearest[row] = the better of itself and the best of columns, for every row of `rows`. Both lists ascend.
  void approach(const std::int32_t* rows, std::size_t row_count, const std::int32_t* columns, std::size_t count) const {
    parallel((row_count + kDotRows - 1) / kDotRows, [&](std::size_t strip) {
      const std::size_t begin = strip * kDotRows, mine = std::min(kDotRows, row_count - begin);
      const float* left[kDotRows];
      for (std::size_t i = 0; i < mine; ++i) left[i] = unit(rows[begin + i]);
      alignas(64) float dots[kDotRows * kColumns];
      for (std::size_t from = 0; from < count; from += kColumns) {
        const std::size_t wide = std::min(kColumns, count - from);
        dot_strip(left, mine, [&](std::size_t j) { return unit(columns[from + j]); }, wide, a.dim, dots, kColumns);
        for (std::size_t i = 0; i < mine; ++i)
          take_best(s.nearest[rows[begin + i]], dots + i * kColumns, columns + from, wide);
      }
    });
  }

  // The tile's maximum first: it is seldom better than what is known, and then nothing else is to be done.
  static void take_best(Nearest& nearest, const float* dots, const std::int32_t* columns, std::size_t count) {
    float most = dots[0];
    for (std::size_t j = 1; j < count; ++j) most = dots[j] > most ? dots[j] : most;
    if (most < nearest.value) return;
    for (std::size_t j = 0; j < count; ++j) {
      if (dots[j] > nearest.value || (dots[j] == nearest.value && columns[j] < nearest.token)) {
        nearest = {dots[j], columns[j]};
      }
    }
  }

  void run() const {
    a.half ? normalise<std::uint16_t>() : normalise<float>();
    score();
    const std::size_t bases = choose_bases(), others = tokens - bases;
    for (std::size_t i = 0; i < tokens; ++i) s.nearest[i] = {-2.0f, -1};  // below every similarity
    approach(s.other, others, s.base, bases);
    for (std::size_t i = 0; i < others; ++i) s.candidate[i] = {s.nearest[s.other[i]].value, s.other[i]};
    if (a.prune < others) std::nth_element(s.candidate, s.candidate + a.prune, s.candidate + others, Better{});
    std::fill_n(s.rank, tokens, 0);
    for (std::size_t i = 0; i < a.prune; ++i) s.rank[s.candidate[i].token] = -1;
    std::size_t keeping = 0, kept = 0, pruned = 0;
    for (std::size_t i = 0; i < tokens; ++i) {
      const auto token = static_cast<std::int32_t>(i);
      if (s.rank[i] < 0) {
        s.pruned[pruned++] = token;
        continue;
      }
      if (!s.is_base[i]) s.kept[kept++] = token;
      s.rank[i] = static_cast<std::int32_t>(keeping);
      a.keep[keeping++] = token;
    }
    approach(s.pruned, pruned, s.kept, kept);
    for (std::size_t i = 0; i < tokens; ++i)
      a.src[i] = s.rank[s.rank[i] < 0 ? static_cast<std::size_t>(s.nearest[i].token) : i];
  }
};

}  // namespace

std::size_t sim_prune_scratch(std::size_t tokens, std::size_t dim) {
  return reinterpret_cast<std::size_t>(Layout(nullptr, tokens, dim).end);
}

void sim_prune(const SimPruneArgs& args, const Parallel& parallel) {
  Plan{args, Layout(args.scratch, args.height * args.width, args.dim), parallel}.run();
}

}  // namespace FARTHING_ISA
}  // namespace farthing
