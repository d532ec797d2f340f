#include "kernel.h"

#include <algorithm>

namespace farthing {
namespace FARTHING_ISA {
namespace {

// The cache of one head, going up: rows[t] >= t, so what is read has not been written yet.
void move_head(const KvCompactArgs& args, std::size_t b, std::size_t h, const float* past, float* present) {
  const std::size_t head = (b * args.kv_heads + h) * args.capacity * args.dim;
  if (past != present) std::copy_n(past + head, args.capacity * args.dim, present + head);
  float* own = present + head + static_cast<std::size_t>(args.past_len[b]) * args.dim;
  const std::int64_t* rows = args.rows + b * args.listed;
  for (std::size_t t = 0; t < static_cast<std::size_t>(args.count[b]); ++t) {
    const auto row = static_cast<std::size_t>(rows[t]);
    if (row != t) std::copy_n(own + row * args.dim, args.dim, own + t * args.dim);
  }
}

}  // namespace

void kv_compact(const KvCompactArgs& args, const Parallel& parallel) {
  const auto head = [&](std::size_t task) {
    const std::size_t b = task / args.kv_heads, h = task % args.kv_heads;
    move_head(args, b, h, args.past_k, args.present_k);
    move_head(args, b, h, args.past_v, args.present_v);
  };
  if (args.past_k != args.present_k) {
    parallel(args.batch * args.kv_heads, [&](std::size_t task) { head(task); });
  } else {
    // Some kilobytes in all: waking threads would take longer.
    for (std::size_t task = 0; task < args.batch * args.kv_heads; ++task) head(task);
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
