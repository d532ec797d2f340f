#include "plan.h"

#include <algorithm>

namespace farthing {

Plan::Plan(std::int64_t most_rows) {
  const auto most = static_cast<std::size_t>(most_rows);
  for (auto* list : {&ids_, &parents_, &depths_, &nodes_, &row_of_, &masked_}) list->reserve(most);
}

void Plan::set(std::int32_t root, const Draft& draft, std::span<const std::int32_t> nodes) {
  ids_.assign(1, root);
  parents_.assign(1, -1);
  depths_.assign(1, 0);
  nodes_.assign(nodes.begin(), nodes.end());
  row_of_.assign(draft.size(), -1);
  masked_.clear();
  masks_ = 0;
  chain_ = true;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const auto node = static_cast<std::size_t>(nodes[i]);
    const std::int32_t parent = draft.parents[node] < 0 ? 0 : row_of_[static_cast<std::size_t>(draft.parents[node])];
    row_of_[node] = static_cast<std::int32_t>(i) + 1;
    ids_.push_back(draft.ids[node]);
    parents_.push_back(parent);
    depths_.push_back(depths_[static_cast<std::size_t>(parent)] + 1);
    chain_ &= parent == static_cast<std::int32_t>(i);
  }
}

std::int32_t Plan::child(std::int32_t row, std::int32_t id) const {
  for (auto i = static_cast<std::size_t>(row) + 1; i < ids_.size(); ++i) {
    if (parents_[i] == row && ids_[i] == id) return static_cast<std::int32_t>(i);
  }
  return -1;
}

void Plan::add_masks(std::int64_t count, std::span<const std::int32_t> where) {
  masks_ = count;
  masked_.assign(where.begin(), where.end());
}

std::int32_t Plan::block(std::int32_t row) const {
  const auto found = std::find(masked_.begin(), masked_.end(), row);
  return found == masked_.end() ? -1 : static_cast<std::int32_t>(found - masked_.begin());
}

NodeChoice::NodeChoice(std::int64_t most_nodes) {
  reach_.reserve(static_cast<std::size_t>(most_nodes));
  order_.reserve(static_cast<std::size_t>(most_nodes));
}

void NodeChoice::rank(const Draft& draft) {
  reach_.resize(draft.size());
  order_.resize(draft.size());
  for (std::size_t i = 0; i < draft.size(); ++i) {
    const std::int32_t parent = draft.parents[i];
    const float before = parent < 0 ? 1.0f : reach_[static_cast<std::size_t>(parent)];
    reach_[i] = before * std::clamp(draft.chances[i], 0.0f, 1.0f);
    order_[i] = static_cast<std::int32_t>(i);
  }
  // Equal reach: parents first, since they have the lower number.
  std::sort(order_.begin(), order_.end(), [this](std::int32_t a, std::int32_t b) {
    const float first = reach_[static_cast<std::size_t>(a)], second = reach_[static_cast<std::size_t>(b)];
    return first != second ? first > second : a < b;
  });
}

std::span<const std::int32_t> NodeChoice::take(std::size_t count) {
  order_.resize(count);
  std::sort(order_.begin(), order_.end());
  return order_;
}

std::span<const std::int32_t> NodeChoice::all(const Draft& draft) {
  rank(draft);
  expected_ = 0;
  for (const float reach : reach_) expected_ += reach;
  return take(draft.size());
}

}  // namespace farthing
