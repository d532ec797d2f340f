#include "judge.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "../error.h"

namespace farthing {
namespace {

// softmax(row)[id], in double as the reference has it.
double probability(std::span<const float> row, std::int32_t id) {
  const double most = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float logit : row) sum += std::exp(logit - most);
  return std::exp(row[static_cast<std::size_t>(id)] - most) / sum;
}

}  // namespace

JudgeAcceptor::JudgeAcceptor(JudgeRule rule) : rule_(std::move(rule)) {
  if (!(rule_.delta >= 0 && rule_.delta <= 1)) {
    refuse(Status::request, "judge's delta", std::to_string(rule_.delta), "0 to 1", "choose another number");
  }
}

bool JudgeAcceptor::allowed(std::int32_t id) const {
  return !std::binary_search(rule_.control_ids.begin(), rule_.control_ids.end(), id);
}

std::int32_t JudgeAcceptor::accept(const Verification& pass, std::int32_t row, std::int32_t drawn) {
  if (row == 0) streak_ = 0;  // the token of row 0 is always one that was drawn
  if (const std::int32_t own = pass.plan.child(row, drawn); own >= 0) {
    streak_ = 0;
    return own;
  }
  if (pass.judge.empty() || (rule_.max_consecutive > 0 && streak_ >= rule_.max_consecutive)) return -1;
  std::int32_t best = -1;
  for (auto i = static_cast<std::size_t>(row) + 1; i < pass.plan.rows(); ++i) {
    if (pass.plan.parents()[i] != row || !(pass.judge[i] > rule_.delta) || !allowed(pass.plan.ids()[i])) continue;
    if (best >= 0 && pass.judge[i] <= pass.judge[static_cast<std::size_t>(best)]) continue;
    if (probability(pass.row(row), pass.plan.ids()[i]) >= rule_.min_probability) best = static_cast<std::int32_t>(i);
  }
  if (best >= 0) ++streak_;
  return best;
}

}  // namespace farthing
