// Ratios of all drafts, the walk, one draw.
//
// exact and neighbourhood look at single numbers of each draft, so what costs is the row where the walk ends. grouped needs the codes
// nearest to x in the order of p: one pass over p's row keeps the best of either side, and a vector of which none is nearer than the worst
// kept is passed over. V numbers in random order bring some k * ln(V / k) candidates a side, 54 for k = 7 and V = 16384.
#include "kernel.h"

#include <algorithm>
#include <cmath>

#include "../native/simd.h"
#include "nearest.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

constexpr std::size_t kBlock = 256;       // codes whose weights are summed before anybody asks where the draw ends
constexpr std::size_t kTask = 1 << 17;    // codes in all from which threads are woken: some 50 us of work
constexpr std::int64_t kNothing = -1;     // no weight is above 0
constexpr char kTaken = 1, kDrafted = 2;  // of a code in the mask of mode neighbourhood

float chance_of(double above, double below) {
  if (!(below > 0)) return 0.0f;
  const double ratio = above / below;
  return ratio < 1 ? static_cast<float>(ratio) : ratio >= 1 ? 1.0f : 0.0f;  // infinity over infinity is 0
}

// The first index whose running sum exceeds u * (the sum of all); kNothing when that sum is 0. `totals`: a double a block.
template <class Weight>
std::int64_t draw(std::size_t n, float u, double* totals, Weight weight) {
  constexpr std::size_t kSums = 8;  // the same on every instruction set
  double total = 0;
  for (std::size_t begin = 0, b = 0; begin < n; begin += kBlock, ++b) {
    double sums[kSums] = {};
    std::size_t c = begin;
    for (; c + kSums <= std::min(begin + kBlock, n); c += kSums) {
      for (std::size_t j = 0; j < kSums; ++j) sums[j] += weight(c + j);
    }
    for (std::size_t j = 0; c < std::min(begin + kBlock, n); ++c, ++j) sums[j] += weight(c);
    totals[b] = ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
    total += totals[b];
  }
  if (!(total > 0)) return kNothing;
  const double limit = u * total;
  double running = 0;
  for (std::size_t begin = 0, b = 0; begin < n; begin += kBlock, ++b) {
    if (!(running + totals[b] <= limit)) {
      double within = running;
      for (std::size_t c = begin; c < std::min(begin + kBlock, n); ++c) {
        within += weight(c);
        if (within > limit) return static_cast<std::int64_t>(c);
      }
    }
    running += totals[b];
  }
  return static_cast<std::int64_t>(n - 1);  // an infinite sum
}

struct Accept {
  const GroupedAcceptArgs& a;

  const float* p(std::size_t i) const { return a.p + i * a.codes; }
  const float* q(std::size_t i) const { return a.q + i * a.codes; }
  std::size_t x(std::size_t i) const { return static_cast<std::size_t>(a.draft[i]); }
  const std::int64_t* near(std::size_t i) const { return a.table + x(i) * a.columns; }

  float grouped(std::size_t i) const {
    const std::size_t stride = group_scratch(a.codes, a.group_size);
    auto* memory = reinterpret_cast<std::uint64_t*>(a.scratch) + i * stride;
    std::size_t members = nearest_by_rank(p(i), a.codes, x(i), a.group_size, memory);
    const double own = positive(p(i)[x(i)]);
    members = static_cast<std::size_t>(
        std::remove_if(memory, memory + members, [&](std::uint64_t c) { return too_far(i, c, own); }) - memory);
    memory[members++] = x(i);
    std::sort(memory, memory + members);
    double ours = 0, theirs = 0;
    for (std::size_t j = 0; j < members; ++j) {
      ours += positive(p(i)[memory[j]]);
      theirs += positive(q(i)[memory[j]]);
    }
    return chance_of(ours, theirs);
  }

  bool too_far(std::size_t i, std::uint64_t c, double own) const {
    if (!(std::abs(positive(p(i)[c]) - own) < a.prob_tol)) return true;
    if (!a.embeds) return false;
    const float *left = a.embeds + c * a.width, *right = a.embeds + x(i) * a.width;
    double squares = 0;
    for (std::size_t e = 0; e < a.width; ++e) {
      const double gap = static_cast<double>(left[e]) - right[e];
      squares += gap * gap;
    }
    return !(squares < a.dist_tol);
  }

  float partition(std::size_t i) const {
    constexpr std::size_t kStep = 32;
    const std::int64_t own = a.table[x(i)];
    double ours = 0, theirs = 0;
    std::size_t c = 0;
    const auto add = [&](std::size_t at) {
      if (a.table[at] != own) return;
      ours += positive(p(i)[at]);
      theirs += positive(q(i)[at]);
    };
    for (; c + kStep <= a.codes; c += kStep) {
      std::int64_t any = 0;
      for (std::size_t j = 0; j < kStep; ++j) any |= a.table[c + j] == own;
      for (std::size_t j = 0; any && j < kStep; ++j) add(c + j);
    }
    for (; c < a.codes; ++c) add(c);
    return chance_of(ours, theirs);
  }

  // How many of x's nearest codes fit the budget, and their sum.
  std::size_t prefix(std::size_t i, double& sum) const {
    const double budget = a.relative ? static_cast<double>(a.delta) * positive(p(i)[x(i)]) : a.delta;
    std::size_t taken = 0;
    sum = 0;
    for (; taken < a.columns; ++taken) {
      const double more = sum + positive(p(i)[near(i)[taken]]);
      if (!(more <= budget)) break;
      sum = more;
    }
    return taken;
  }

  float chance(std::size_t i) const {
    switch (a.mode) {
      case AcceptMode::grouped:
        if (a.group_size > 1) return grouped(i);
        [[fallthrough]];
      case AcceptMode::exact:
        return chance_of(positive(p(i)[x(i)]), positive(q(i)[x(i)]));
      case AcceptMode::partition:
        return partition(i);
      case AcceptMode::neighbourhood:
        break;
    }
    double sum;
    prefix(i, sum);
    return chance_of(positive(p(i)[x(i)]) + sum, positive(q(i)[x(i)]));
  }

  // What replaces the refused draft i.
  std::int64_t other(std::size_t i, float u, double* totals) const {
    const float *ours = p(i), *theirs = q(i);
    if (a.mode == AcceptMode::partition) {
      double* mass = totals + (a.codes + kBlock - 1) / kBlock;
      double* lost = mass + a.codes;
      std::fill_n(mass, 2 * a.codes, 0.0);
      for (std::size_t c = 0; c < a.codes; ++c) {
        mass[a.table[c]] += positive(ours[c]);
        lost[a.table[c]] += positive(theirs[c]);
      }
      // A cluster's residual for each unit of its mass in p.
      for (std::size_t k = 0; k < a.codes; ++k) lost[k] = mass[k] > lost[k] ? (mass[k] - lost[k]) / mass[k] : 0.0;
      return draw(a.codes, u, totals, [=, this](std::size_t c) { return lost[a.table[c]] * positive(ours[c]); });
    }
    if (a.mode != AcceptMode::neighbourhood) {
      return draw(a.codes, u, totals, [=](std::size_t c) {
        const double rest = static_cast<double>(positive(ours[c])) - positive(theirs[c]);
        return rest > 0 ? rest : 0.0;
      });
    }
    char* mask = reinterpret_cast<char*>(totals + (a.codes + kBlock - 1) / kBlock);
    std::fill_n(mask, a.codes, char{0});
    double sum;
    const std::size_t taken = prefix(i, sum);
    for (std::size_t k = 0; k < taken; ++k) mask[near(i)[k]] = kTaken;
    mask[x(i)] = kDrafted;
    const double relaxed = positive(ours[x(i)]) + sum;
    const std::int64_t found = draw(a.codes, u, totals, [=](std::size_t c) {
      const double own = mask[c] == 0 ? positive(ours[c]) : mask[c] == kTaken ? 0.0 : relaxed;
      const double rest = own - positive(theirs[c]);
      return rest > 0 ? rest : 0.0;
    });
    if (found != kNothing) return found;
    return draw(a.codes, u, totals,
                [=](std::size_t c) { return mask[c] == 0 ? static_cast<double>(positive(ours[c])) : 0.0; });
  }
};

}  // namespace

std::size_t grouped_accept_scratch(std::size_t length, std::size_t codes, AcceptMode mode, std::size_t group_size) {
  const std::size_t totals = (codes + kBlock - 1) / kBlock * sizeof(double);
  if (mode == AcceptMode::partition) return totals + 2 * codes * sizeof(double);
  if (mode == AcceptMode::neighbourhood) return totals + codes;
  // Groups are done with before anything is drawn.
  const std::size_t groups = mode == AcceptMode::grouped ? length * group_scratch(codes, group_size) : 0;
  return std::max(totals, groups * sizeof(std::uint64_t));
}

void grouped_accept(const GroupedAcceptArgs& a, const Parallel& parallel) {
  const Accept accept{a};
  const bool scans = (a.mode == AcceptMode::grouped && a.group_size > 1) || a.mode == AcceptMode::partition;
  if (scans && a.length * a.codes >= kTask) {
    parallel(a.length, [&](std::size_t i) { a.chance[i] = accept.chance(i); });
  } else {
    for (std::size_t i = 0; i < a.length; ++i) a.chance[i] = accept.chance(i);
  }
  std::size_t stands = 0;
  while (stands < a.length && a.uniforms[stands] < a.chance[stands]) ++stands;
  *a.accepted = static_cast<std::int64_t>(stands);

  auto* totals = reinterpret_cast<double*>(a.scratch);
  const float u = a.uniforms[a.length], *row = accept.p(stands);
  std::int64_t next = stands < a.length ? accept.other(stands, u, totals) : kNothing;
  if (next == kNothing) {
    next = draw(a.codes, u, totals, [=](std::size_t c) { return static_cast<double>(positive(row[c])); });
  }
  *a.next = next == kNothing ? static_cast<std::int64_t>(a.codes - 1) : next;
}

}  // namespace FARTHING_ISA
}  // namespace farthing
