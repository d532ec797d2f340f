// Greedy selection without the Gram matrix.
//
// A token's objective only falls as more is picked, because `nearest` only rises. So an objective computed against the first
// few picks is an upper bound ("lazy greedy", Minoux 1978), and a token whose bound is below the best up-to-date objective need
// not be looked at. We bring the best `window` candidates up to date together: their products with the picks they have not seen are a
// small GEMM, and so are those with each other, after which picks inside the window cost nothing until a token outside could be
// better. Narrow rows stay in L1; of them a pick asks only for its own products, since most windows end after few picks. The picks are those of the plain greedy loop. At N = 2880, k = 640 this takes 0.3 to 1.0 million dot products, by how much
// importance decides, where k columns are 1.8 million and the Gram matrix 8.3 million (4.1 by symmetry).
#include "kernel.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "../native/row_dots.h"
#include "../native/unit_rows.h"
#include "dot_row.h"
#include "layout.h"
#include "leaders.h"

namespace farthing {
namespace FARTHING_ISA {
namespace {

constexpr std::int64_t kAlways = -2;
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr std::size_t kBlock = 32;  // picks that a strip looks at before it asks whether to go on

struct Better {
  bool operator()(const Key& a, const Key& b) const { return a.rank > b.rank; }
};
struct HighestSlot {
  bool operator()(const Key& a, const Key& b) const { return a.slot > b.slot; }
};
struct SeenFirst {
  const std::int32_t* seen;
  bool operator()(const Key& a, const Key& b) const { return seen[a.slot] < seen[b.slot]; }
};

// Larger for the larger value, then for the lower token. Adding 0 makes -0 equal to 0; there are no NaN.
std::uint64_t rank_of(float value, std::int32_t token) {
  const auto bits = std::bit_cast<std::uint32_t>(value + 0.0f);
  const std::uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  return std::uint64_t{ordered} << 32 | (0xffffffffu - static_cast<std::uint32_t>(token));
}

float value_of(std::uint64_t rank) {
  const auto ordered = static_cast<std::uint32_t>(rank >> 32);
  return std::bit_cast<float>(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
}

template <SelectMode kMode>
Vec objective(Vec gain, Vec nearest, Vec rest) {
  return kMode == SelectMode::mmr ? gain - rest * nearest : gain * (splat(1.0f) - nearest);
}

// Importance of the members of one pool: min-max over the finite scores.
struct Importance {
  float low = kLargest, high = -kLargest, extent = 1.0f, constant = 0.0f;
  bool equal = false;

  Importance(const TokenSelectArgs& a, const std::int32_t* member, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
      const float score = a.scores[member[i]];
      if (!(std::fabs(score) <= kLargest)) continue;
      low = std::min(low, score);
      high = std::max(high, score);
    }
    equal = !(high > low);
    constant = a.mode == SelectMode::sads ? 1.0f : 0.0f;
    // Halves, so that high - low cannot overflow.
    extent = high * 0.5f - low * 0.5f + a.epsilon * 0.5f;
  }

  float operator()(float score) const {
    if (equal) return constant;
    const float clean = score != score ? low : std::clamp(score, low, high);
    return (clean * 0.5f - low * 0.5f) / extent;
  }
};

// One pool at work: the candidates left are slots 0 .. alive - 1 of the layout's arrays.
template <SelectMode kMode, class T>
struct Greedy {
  const TokenSelectArgs& a;
  const SelectLayout& s;
  const Parallel& parallel;
  const std::size_t stride = dot_stride(a.dim), rows = select_window(a.dim);
  const float rest = 1.0f - a.lam;
  std::size_t alive = 0, count = 0;

  const T* row(std::int32_t token) const {
    return static_cast<const T*>(a.feats) + static_cast<std::size_t>(token) * a.dim;
  }
  float* picked(std::size_t i) const { return s.picked + i * stride; }
  float* window(std::size_t i) const { return s.window + i * stride; }

  // The first `limit` picks of the pool, with the objective each was picked for.
  void run(const std::int32_t* member, std::size_t n, std::size_t limit, std::int32_t* chosen, float* value) {
    const Importance importance(a, member, n);
    std::size_t first = 0;
    float best = -1.0f;
    for (std::size_t i = 0; i < n; ++i) {
      const float v = importance(a.scores[member[i]]);
      s.token[i] = member[i];
      s.gain[i] = kMode == SelectMode::mmr ? a.lam * v : v;
      if (v > best) first = i, best = v;
    }
    chosen[0] = s.token[first];
    value[0] = best;
    alive = n, count = 1;
    if (limit == 1) return;
    copy_scaled(row(chosen[0]), a.dim, row_scale(sum_of_squares(row(chosen[0]), a.dim)), picked(0));
    remove(first);
    look_at_first();
    while (count < limit) step(limit, chosen, value);
  }

  void remove(std::size_t slot) {
    const std::size_t last = --alive;
    s.token[slot] = s.token[last];
    s.gain[slot] = s.gain[last];
    s.nearest[slot] = s.nearest[last];
    s.scale[slot] = s.scale[last];
    s.seen[slot] = s.seen[last];
  }

  // Norms of all candidates and their similarity to the first pick, in the one pass over the features that nothing can spare.
  void look_at_first() {
    constexpr std::size_t kRows = 32;
    parallel((alive + kRows - 1) / kRows, [&](std::size_t task) {
      for (std::size_t i = task * kRows; i < std::min((task + 1) * kRows, alive); ++i) {
        float squares, dot;
        squares_and_dot(row(s.token[i]), picked(0), a.dim, squares, dot);
        s.scale[i] = row_scale(squares);
        s.nearest[i] = s.scale[i] == 0.0f ? 0.0f : dot * s.scale[i];
        s.seen[i] = 1;
      }
    });
  }

  // One window: choose it, bring it up to date, pick from it while nobody else can be better.
  void step(std::size_t limit, std::int32_t* chosen, float* value) {
    Key* key = s.key;
    const Vec weight = splat(rest);
    for (std::size_t i = 0; i < alive; i += kLanes) {
      store(s.bound + i, objective<kMode>(load(s.gain + i), load(s.nearest + i), weight));
    }
    const std::size_t width = std::min(rows, alive);
    const float floor = leaders_floor(s.bound, alive, width);
    std::size_t leaders = 0;
    for (std::size_t i = 0; i < alive; ++i) {
      key[leaders].rank = rank_of(s.bound[i], s.token[i]);
      key[leaders].slot = static_cast<std::uint32_t>(i);
      leaders += s.bound[i] >= floor;
    }
    std::uint64_t outside = 0;
    if (width < leaders) {
      std::nth_element(key, key + width, key + leaders, Better{});
      outside = key[width].rank;
    }
    // Neighbours in a strip should have missed about the same picks.
    std::sort(key, key + width, SeenFirst{s.seen});
    catch_up(key, width);

    // Those up to date compete; the others stand outside with the bounds they have now.
    const std::size_t padded = rows + 16;
    float *gain = s.window_state, *nearest = gain + padded, *gone = nearest + padded, *now = gone + padded;
    std::uint32_t place[kWindow], slot[kWindow];
    std::size_t fresh = 0;
    for (std::size_t i = 0; i < width; ++i) {
      const std::uint32_t at = key[i].slot;
      if (static_cast<std::size_t>(s.seen[at]) < count) {
        const Vec bound = objective<kMode>(splat(s.gain[at]), splat(s.nearest[at]), weight);
        outside = std::max(outside, rank_of(bound[0], s.token[at]));
        continue;
      }
      place[fresh] = static_cast<std::uint32_t>(i);
      slot[fresh] = at;
      gain[fresh] = s.gain[at];
      nearest[fresh] = s.nearest[at];
      gone[fresh++] = 0.0f;
    }
    const bool narrow = a.dim <= kDotDepth;
    if (!narrow) multiply(place, fresh);
    std::uint64_t best = 0;
    while (count < limit) {
      for (std::size_t i = 0; i < fresh; i += kLanes) {
        store(now + i, objective<kMode>(load(gain + i), load(nearest + i), weight));
      }
      best = 0;
      std::size_t at = 0;
      for (std::size_t i = 0; i < fresh; ++i) {
        const std::uint64_t rank = gone[i] != 0.0f ? 0 : rank_of(now[i], s.token[slot[i]]);
        if (rank > best) best = rank, at = i;
      }
      if (best <= outside) break;  // outside is 0 when nobody is there, best when nobody is here
      chosen[count] = s.token[slot[at]];
      value[count] = value_of(best);
      std::copy_n(window(place[at]), stride, picked(count));
      gone[at] = 1.0f;
      ++count;
      float* row = s.gram + at * gram_ld();
      if (narrow) dot_row(picked(count - 1), [&](std::size_t j) { return window(place[j]); }, fresh, a.dim, row);
      for (std::size_t i = 0; i < fresh; i += kLanes) store(nearest + i, maximum(load(nearest + i), load(row + i)));
    }
    before = best == 0 ? -kLargest : last;
    last = best == 0 ? -kLargest : value_of(best);

    std::size_t leaving = 0;
    for (std::size_t i = 0; i < fresh; ++i) {
      s.nearest[slot[i]] = nearest[i];
      s.seen[slot[i]] = static_cast<std::int32_t>(count);
      if (gone[i] != 0.0f) key[leaving++].slot = slot[i];
    }
    // From the highest slot down, so that the one moved into a hole is never one still to be removed.
    std::sort(key, key + leaving, HighestSlot{});
    for (std::size_t i = 0; i < leaving; ++i) remove(key[i].slot);
  }

  // nearest of the window's candidates against the picks they have not seen. A strip stops early when all its candidates have
  // fallen below what the window will end with, if objectives go on falling as from the last window to this one: they would
  // not be picked. That is only a guess of what is worth computing; the bounds stay bounds.
  void catch_up(const Key* key, std::size_t width) {
    const float floor = before > -kLargest ? last - (before - last) : -kLargest;
    const Vec weight = splat(rest);
    parallel((width + kDotRows - 1) / kDotRows, [&](std::size_t strip) {
      const std::size_t begin = strip * kDotRows, mine = std::min(kDotRows, width - begin);
      const float* left[kDotRows];
      for (std::size_t i = 0; i < mine; ++i) {
        const std::uint32_t at = key[begin + i].slot;
        copy_scaled(row(s.token[at]), a.dim, s.scale[at], window(begin + i));
        left[i] = window(begin + i);
      }
      alignas(64) float dots[kDotRows * kBlock];
      std::size_t from = static_cast<std::size_t>(s.seen[key[begin].slot]);  // sorted: the least of the strip
      bool hopeful = true;
      while (from < count && hopeful) {
        const std::size_t missed = std::min(kBlock, count - from);
        dot_strip(left, mine, [&](std::size_t j) { return picked(from + j); }, missed, a.dim, dots, kBlock);
        from += missed;
        hopeful = false;
        for (std::size_t i = 0; i < mine; ++i) {
          const std::uint32_t at = key[begin + i].slot;
          float most = s.nearest[at];
          for (std::size_t j = 0; j < missed; ++j) most = std::max(most, dots[i * kBlock + j]);
          s.nearest[at] = most;
          s.seen[at] = std::max(s.seen[at], static_cast<std::int32_t>(from));
          hopeful |= objective<kMode>(splat(s.gain[at]), splat(most), weight)[0] >= floor;
        }
      }
    });
  }

  // The Gram matrix of the window's rows `place`, both halves.
  void multiply(const std::uint32_t* place, std::size_t width) {
    const std::size_t ld = gram_ld();
    parallel((width + kDotRows - 1) / kDotRows, [&](std::size_t strip) {
      const std::size_t begin = strip * kDotRows, mine = std::min(kDotRows, width - begin);
      const float* left[kDotRows];
      for (std::size_t i = 0; i < mine; ++i) left[i] = window(place[begin + i]);
      dot_strip(
          left, mine, [&](std::size_t j) { return window(place[j]); }, begin + mine, a.dim, s.gram + begin * ld, ld);
    });
    for (std::size_t i = 0; i < width; ++i) {
      for (std::size_t j = 0; j < i; ++j) s.gram[j * ld + i] = s.gram[i * ld + j];
    }
  }

  std::size_t gram_ld() const { return rows + kDotRowCols; }

  // The best objective left when the last window ended, and the one before it; -kLargest for none.
  float last = -kLargest, before = -kLargest;
};

// The `limit` highest scores of a pool, best first.
void highest(const TokenSelectArgs& a, const SelectLayout& s, const std::int32_t* member, std::size_t n,
             std::size_t limit, std::int32_t* chosen, float* value) {
  Key* key = s.key;
  for (std::size_t i = 0; i < n; ++i) {
    const float score = a.scores[member[i]];
    key[i].rank = rank_of(score != score ? -std::numeric_limits<float>::infinity() : score, member[i]);
    key[i].slot = static_cast<std::uint32_t>(member[i]);
  }
  if (limit < n) std::nth_element(key, key + limit, key + n, Better{});
  std::sort(key, key + limit, Better{});
  for (std::size_t i = 0; i < limit; ++i) {
    chosen[i] = static_cast<std::int32_t>(key[i].slot);
    value[i] = value_of(key[i].rank);
  }
}

void sequence(const TokenSelectArgs& a, const SelectLayout& s, const Parallel& parallel, const std::int32_t* member,
              std::size_t n, std::size_t limit, std::int32_t* chosen, float* value) {
  if (limit == 0) return;
  if (a.mode == SelectMode::topk) {
    highest(a, s, member, n, limit, chosen, value);
  } else if (a.mode == SelectMode::mmr) {
    a.half ? Greedy<SelectMode::mmr, std::uint16_t>{a, s, parallel}.run(member, n, limit, chosen, value)
           : Greedy<SelectMode::mmr, float>{a, s, parallel}.run(member, n, limit, chosen, value);
  } else {
    a.half ? Greedy<SelectMode::sads, std::uint16_t>{a, s, parallel}.run(member, n, limit, chosen, value)
           : Greedy<SelectMode::sads, float>{a, s, parallel}.run(member, n, limit, chosen, value);
  }
}

// The pool of a token; one past the last for a token that is no candidate.
std::size_t pool_of(const TokenSelectArgs& a, std::size_t i) {
  if (!a.group) return 0;
  if (!a.quota) return a.group[i] >= 0 ? 0 : 1;
  return a.group[i] >= 0 && static_cast<std::uint64_t>(a.group[i]) < a.groups ? static_cast<std::size_t>(a.group[i])
                                                                              : a.groups;
}

// Sorts tokens into pools (all the members of pool p from start[p] to start[p + 1]); returns how many pools there are.
std::size_t make_pools(const TokenSelectArgs& a, const SelectLayout& s) {
  const std::size_t pools = a.quota ? a.groups : 1;
  std::fill_n(s.start, pools + 1, 0);
  for (std::size_t i = 0; i < a.n; ++i) {
    const std::size_t pool = pool_of(a, i);
    if (pool < pools) ++s.start[pool + 1];
  }
  for (std::size_t p = 0; p < pools; ++p) s.start[p + 1] += s.start[p];
  std::copy_n(s.start, pools, s.taken);
  for (std::size_t i = 0; i < a.n; ++i) {
    const std::size_t pool = pool_of(a, i);
    if (pool < pools) s.member[s.taken[pool]++] = static_cast<std::int32_t>(i);
  }
  return pools;
}

}  // namespace

std::size_t token_select_scratch(std::size_t n, std::size_t dim, std::size_t groups, std::size_t k, SelectMode mode) {
  return reinterpret_cast<std::size_t>(SelectLayout(nullptr, n, dim, groups, k, mode != SelectMode::topk).end);
}

void token_select(const TokenSelectArgs& a, const Parallel& parallel) {
  const SelectLayout s(a.scratch, a.n, a.dim, a.groups, a.k, a.mode != SelectMode::topk);
  std::size_t done = 0;
  for (std::size_t i = 0; a.group && i < a.n && done < a.k; ++i) {
    if (a.group[i] == kAlways) a.picks[done++] = static_cast<std::int64_t>(i);
  }
  if (done == a.k) return;

  const std::size_t pools = make_pools(a, s), need = a.k - done;
  const auto size = [&](std::size_t p) { return s.start[p + 1] - s.start[p]; };
  // How much of a pool its quota allows.
  const auto room = [&](std::size_t p) {
    if (!a.quota) return size(p);
    return a.quota[p] <= 0 ? 0 : static_cast<std::size_t>(std::min<std::int64_t>(a.quota[p], size(p)));
  };
  std::size_t allowed = 0;
  for (std::size_t p = 0; p < pools; ++p) allowed += room(p);
  const std::size_t missing = need > allowed ? need - allowed : 0;  // to be taken beyond the quotas
  for (std::size_t p = 0; p < pools; ++p) {
    // A pool is greedy by itself; which pool is served next changes nothing inside it. So each makes its list alone.
    s.length[p] = std::min({size(p), room(p) + missing, need});
    s.taken[p] = 0;
    sequence(a, s, parallel, s.member + s.start[p], size(p), s.length[p], s.chosen + s.start[p],
             s.chosen_value + s.start[p]);
  }
  for (const bool beyond : {false, true}) {
    while (done < a.k) {
      std::uint64_t best = 0;
      std::size_t from = pools;
      for (std::size_t p = 0; p < pools; ++p) {
        if (s.taken[p] >= (beyond ? s.length[p] : std::min(s.length[p], room(p)))) continue;
        const std::size_t head = s.start[p] + s.taken[p];
        const std::uint64_t rank = rank_of(s.chosen_value[head], s.chosen[head]);
        if (from == pools || rank > best) best = rank, from = p;
      }
      if (from == pools) break;
      a.picks[done++] = s.chosen[s.start[from] + s.taken[from]++];
    }
  }
  for (std::size_t i = 0; done < a.k && i < a.n; ++i) {
    if (pool_of(a, i) >= pools && a.group[i] != kAlways) a.picks[done++] = static_cast<std::int64_t>(i);
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
