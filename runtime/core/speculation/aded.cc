#include "aded.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace farthing {
namespace {

std::size_t pairs_for(std::int64_t capacity) {
  return static_cast<std::size_t>(std::clamp<std::int64_t>(4 * capacity, 256, 65536));
}

}  // namespace

AdedDrafter::AdedDrafter(std::int64_t capacity, std::shared_ptr<const TableFile> file)
    : table_(pairs_for(capacity), std::move(file)) {
  text_.reserve(static_cast<std::size_t>(capacity) + 1);
  tree_.reserve(1 + static_cast<std::size_t>(kIterations) * Successors::kMost);
  drafted_.reserve(tree_.capacity());
  order_.reserve(tree_.capacity());
  place_.reserve(tree_.capacity());
  // What a prior is worth before anything was seen: less than it says, and less the deeper it stands.
  for (std::size_t p = 0; p < kPriors; ++p) {
    for (std::size_t d = 0; d < kDepths; ++d) {
      rates_[p * kDepths + d] = HitRate(0.6f * (static_cast<float>(p) + 0.5f) / kPriors, 4);
    }
  }
}

void AdedDrafter::enter(std::size_t from) {
  for (std::size_t i = from; i + 2 < text_.size(); ++i) {
    table_.reinforce(text_[i], text_[i + 1], text_[i + 2], kStep, kCap);
  }
}

void AdedDrafter::begin(std::span<const std::int32_t> tokens) {
  text_.assign(tokens.begin(), tokens.end());
  enter(0);
  drafted_.clear();
}

void AdedDrafter::observe(std::span<const std::int32_t> tokens) {
  if (text_.size() + tokens.size() > text_.capacity()) {  // a text that began again at a full context
    text_.erase(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(text_.size() / 2));
  }
  text_.insert(text_.end(), tokens.begin(), tokens.end());
}

std::int32_t AdedDrafter::before(std::int32_t node) const {
  const std::int32_t parent = tree_[static_cast<std::size_t>(node)].parent;
  return parent < 0 ? text_[text_.size() - 2] : tree_[static_cast<std::size_t>(parent)].token;
}

void AdedDrafter::expand(std::int32_t node) {
  const auto at = static_cast<std::size_t>(node);
  const Successors* next = table_.find(before(node), tree_[at].token);
  tree_[at].first = static_cast<std::int32_t>(tree_.size());
  if (next == nullptr) return;
  tree_[at].count = next->count;
  const float total = next->total();
  for (std::int32_t i = 0; i < next->count; ++i) {
    const auto s = static_cast<std::size_t>(i);
    tree_.push_back({next->ids[s], node, tree_[at].depth + 1, next->scores[s] / total});
  }
}

std::int32_t AdedDrafter::select(std::int32_t node) const {
  const Node& parent = tree_[static_cast<std::size_t>(node)];
  const double visits = parent.visits;
  const double weight = (kC1 + std::log((visits + kC2 + 1) / kC2)) * std::sqrt(visits);
  std::int32_t best = parent.first;
  double most = -1;
  for (std::int32_t i = parent.first; i < parent.first + parent.count; ++i) {
    const Node& child = tree_[static_cast<std::size_t>(i)];
    if (child.visits == 0) return i;  // by falling prior
    const double value = child.score / child.visits + weight * child.prior / (1 + child.visits);
    if (value > most) most = value, best = i;
  }
  return best;
}

// Sum of priors down the likeliest successors of a node, to the search's depth.
float AdedDrafter::descend(std::int32_t node, std::int32_t depth) const {
  const Node& start = tree_[static_cast<std::size_t>(node)];
  std::int32_t a = before(node), b = start.token;
  float sum = 0;
  for (std::int32_t d = start.depth; d < depth; ++d) {
    const Successors* next = table_.find(a, b);
    if (next == nullptr) break;
    sum += next->scores[0] / next->total();
    a = b;
    b = next->ids[0];
  }
  return sum;
}

void AdedDrafter::search(std::int32_t depth) {
  tree_.clear();
  tree_.push_back({text_.back(), -1, 0, 1});
  for (std::int32_t i = 0; i < kIterations; ++i) {
    std::int32_t node = 0;
    float score = 1;
    while (true) {
      const auto at = static_cast<std::size_t>(node);
      if (tree_[at].depth == depth) break;
      const bool leaf = tree_[at].first < 0;
      if (leaf) expand(node);
      if (tree_[at].count == 0) break;
      node = select(node);
      score += tree_[static_cast<std::size_t>(node)].prior;
      if (leaf) break;
    }
    score += descend(node, depth);
    for (; node >= 0; node = tree_[static_cast<std::size_t>(node)].parent) {
      Node& visited = tree_[static_cast<std::size_t>(node)];
      ++visited.visits;
      visited.score += score;
    }
    if (tree_[0].count == 0) return;
  }
}

HitRate& AdedDrafter::rate(const Node& node) {
  const auto prior = std::min(static_cast<std::size_t>(node.prior * kPriors), kPriors - 1);
  return rates_[prior * kDepths + static_cast<std::size_t>(node.depth - 1)];
}

void AdedDrafter::propose(const DraftLimits& limits, Draft& draft) {
  for (const std::int32_t node : drafted_) rate(tree_[static_cast<std::size_t>(node)]).idle();
  drafted_.clear();
  if (text_.size() < 2) return;
  enter(text_.size() > kWindow ? text_.size() - kWindow : 0);
  search(static_cast<std::int32_t>(std::min<std::int64_t>(limits.depth, kDepth)));
  if (!limits.tree) {
    for (std::int32_t node = 0; tree_[static_cast<std::size_t>(node)].count > 0;) {
      if (static_cast<std::int64_t>(draft.size()) == limits.nodes) break;
      const Node& parent = tree_[static_cast<std::size_t>(node)];
      const auto begin = tree_.begin() + parent.first;
      const auto best = std::max_element(begin, begin + parent.count,
                                         [](const Node& a, const Node& b) { return a.visits < b.visits; });
      if (best->visits == 0) break;
      node = static_cast<std::int32_t>(best - tree_.begin());
      drafted_.push_back(node);
      draft.add(best->token, static_cast<std::int32_t>(draft.size()) - 1, rate(*best).mean());
    }
    return;
  }
  // The most visited nodes. A parent is visited at least as often as its child and stands before it, so it is taken first.
  order_.clear();
  for (std::size_t i = 1; i < tree_.size(); ++i) {
    if (tree_[i].visits > 0) order_.push_back(static_cast<std::int32_t>(i));
  }
  std::sort(order_.begin(), order_.end(), [this](std::int32_t a, std::int32_t b) {
    const auto first = tree_[static_cast<std::size_t>(a)].visits, second = tree_[static_cast<std::size_t>(b)].visits;
    return first != second ? first > second : a < b;
  });
  order_.resize(std::min(order_.size(), static_cast<std::size_t>(std::max<std::int64_t>(limits.nodes, 0))));
  place_.assign(tree_.size(), -1);
  for (const std::int32_t node : order_) {
    const Node& found = tree_[static_cast<std::size_t>(node)];
    place_[static_cast<std::size_t>(node)] = static_cast<std::int32_t>(draft.size());
    drafted_.push_back(node);
    draft.add(found.token, place_[static_cast<std::size_t>(found.parent)], rate(found).mean());
  }
}

void AdedDrafter::verified(const Draft& draft, std::span<const std::int32_t> nodes,
                           std::span<const std::int32_t> path) {
  const auto accepted = [&](std::int32_t node) { return std::find(path.begin(), path.end(), node) != path.end(); };
  for (const std::int32_t node : nodes) {
    const std::int32_t parent = draft.parents[static_cast<std::size_t>(node)];
    if (parent >= 0 && !accepted(parent)) continue;  // nothing is known of what follows a wrong token
    rate(tree_[static_cast<std::size_t>(drafted_[static_cast<std::size_t>(node)])]).saw(accepted(node));
  }
  drafted_.clear();
}

}  // namespace farthing
