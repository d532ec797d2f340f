// What a pass costs on this device: T(S, past), measured.
#pragma once

#include <cstdint>
#include <vector>

namespace farthing {

// A grid of seconds over rows and past lengths. Between its points it is interpolated, beyond them the last slope goes on. Rows
// never make a pass cheaper: where noise says so, the larger time counts for both.
class PassCost {
 public:
  PassCost() = default;
  // `seconds` [past.size()][rows.size()], both axes rising; rows begin at 1. Throws Error(bundle) for anything else.
  PassCost(std::vector<std::int64_t> rows, std::vector<std::int64_t> past, std::vector<double> seconds);

  bool known() const { return !seconds_.empty(); }
  // Seconds of a pass of `rows` over `past` tokens.
  double seconds(std::int64_t rows, std::int64_t past) const;
  // The same in units of a pass of one row; 1 where nothing was measured.
  double relative(std::int64_t rows, std::int64_t past) const;

  const std::vector<std::int64_t>& rows() const { return rows_; }
  const std::vector<std::int64_t>& past() const { return past_; }
  const std::vector<double>& grid() const { return seconds_; }

 private:
  double along_rows(std::size_t past, std::int64_t rows) const;

  std::vector<std::int64_t> rows_, past_;
  std::vector<double> seconds_;
};

}  // namespace farthing
