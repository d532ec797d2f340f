#include "cost.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "../error.h"

namespace farthing {
namespace {

void check_axis(const char* name, const std::vector<std::int64_t>& axis, std::int64_t first) {
  const bool rising = std::is_sorted(axis.begin(), axis.end(), std::less_equal<>());
  if (axis.empty() || !rising || axis.front() < 0 || (first > 0 && axis.front() != first)) {
    refuse(Status::bundle, std::string("axis ") + name + " of the measured costs", "not rising from its first point",
           "rising numbers", "run farthing tune again");
  }
}

// Position between two points: index of the lower one, and the share of the upper; above 1 beyond the last.
struct Between {
  std::size_t low;
  double share;
};
Between between(const std::vector<std::int64_t>& axis, std::int64_t at) {
  if (axis.size() == 1 || at <= axis.front()) return {0, 0};
  const auto above = std::upper_bound(axis.begin(), axis.end() - 1, at) - axis.begin();
  const auto low = static_cast<std::size_t>(above) - 1;
  return {low, static_cast<double>(at - axis[low]) / static_cast<double>(axis[low + 1] - axis[low])};
}

}  // namespace

PassCost::PassCost(std::vector<std::int64_t> rows, std::vector<std::int64_t> past, std::vector<double> seconds)
    : rows_(std::move(rows)), past_(std::move(past)), seconds_(std::move(seconds)) {
  check_axis("rows", rows_, 1);
  check_axis("past", past_, 0);
  const auto sound = [](double s) { return std::isfinite(s) && s > 0; };
  if (seconds_.size() != rows_.size() * past_.size() || !std::all_of(seconds_.begin(), seconds_.end(), sound)) {
    refuse(Status::bundle, "measured costs", std::to_string(seconds_.size()) + " numbers",
           std::to_string(rows_.size() * past_.size()) + " positive ones", "run farthing tune again");
  }
  for (std::size_t p = 0; p < past_.size(); ++p) {
    double* line = seconds_.data() + p * rows_.size();
    for (std::size_t i = 1; i < rows_.size(); ++i) line[i] = std::max(line[i], line[i - 1]);
  }
}

double PassCost::along_rows(std::size_t past, std::int64_t rows) const {
  const double* line = seconds_.data() + past * rows_.size();
  const Between at = between(rows_, rows);
  if (rows_.size() == 1) return line[0];
  return line[at.low] + at.share * (line[at.low + 1] - line[at.low]);
}

double PassCost::seconds(std::int64_t rows, std::int64_t past) const {
  if (!known()) return 0;
  const Between at = between(past_, past);
  const double low = along_rows(at.low, rows);
  if (past_.size() == 1) return low;
  return std::max(low + at.share * (along_rows(at.low + 1, rows) - low), 1e-9);
}

double PassCost::relative(std::int64_t rows, std::int64_t past) const {
  return known() ? seconds(rows, past) / seconds(1, past) : 1;
}

}  // namespace farthing
