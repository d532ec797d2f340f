#include "expressions.h"

#include <algorithm>

namespace farthing::driver {

using nvinfer1::DimensionOperation;

std::int64_t Builder::value(nvinfer1::IDimensionExpr const& expression) {
  return static_cast<Expression const&>(expression).number;
}

nvinfer1::IDimensionExpr const* Builder::keep(std::int64_t value, bool is_constant) {
  kept_.push_back(std::make_unique<Expression>(value, is_constant));
  return kept_.back().get();
}

nvinfer1::IDimensionExpr const* Builder::operation(DimensionOperation op, nvinfer1::IDimensionExpr const& a,
                                                   nvinfer1::IDimensionExpr const& b) {
  const auto& x = static_cast<Expression const&>(a);
  const auto& y = static_cast<Expression const&>(b);
  const bool both = x.constant && y.constant;
  switch (op) {
    case DimensionOperation::kSUM:
      return keep(x.number + y.number, both);
    case DimensionOperation::kPROD:
      return keep(x.number * y.number, both);
    case DimensionOperation::kSUB:
      return keep(x.number - y.number, both);
    case DimensionOperation::kMAX:
      return keep(std::max(x.number, y.number), both);
    case DimensionOperation::kMIN:
      return keep(std::min(x.number, y.number), both);
    case DimensionOperation::kFLOOR_DIV:
      return keep(y.number ? x.number / y.number : 0, both);
    case DimensionOperation::kCEIL_DIV:
      return keep(y.number ? (x.number + y.number - 1) / y.number : 0, both);
    default:
      return nullptr;  // comparisons do not occur in shapes of ours
  }
}

}  // namespace farthing::driver
