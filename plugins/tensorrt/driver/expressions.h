// An IExprBuilder of our own: what TensorRT's builder hands to getOutputShapes exists only inside a build, which needs a device.
// Sizes of inputs claim not to be constant, as dynamic ones do, so that a plugin which reads them is found out.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <vector>

namespace farthing::driver {

class Builder : public nvinfer1::IExprBuilder, public nvinfer1::apiv::VExprBuilder {
 public:
  Builder() { mImpl = this; }
  nvinfer1::IDimensionExpr const* dynamic(std::int64_t value) { return keep(value, false); }
  nvinfer1::IDimensionExpr const* constant(std::int64_t value) override { return keep(value, true); }
  nvinfer1::IDimensionExpr const* operation(nvinfer1::DimensionOperation op, nvinfer1::IDimensionExpr const& a,
                                            nvinfer1::IDimensionExpr const& b) override;
  nvinfer1::IDimensionExpr const* declareSizeTensor(std::int32_t, nvinfer1::IDimensionExpr const& opt,
                                                    nvinfer1::IDimensionExpr const&) override {
    return &opt;
  }
  // The number behind an expression that this builder made.
  static std::int64_t value(nvinfer1::IDimensionExpr const& expression);

  class Expression;

 private:
  nvinfer1::IDimensionExpr const* keep(std::int64_t value, bool is_constant);
  std::vector<std::unique_ptr<Expression>> kept_;
};

class Builder::Expression : public nvinfer1::IDimensionExpr, public nvinfer1::apiv::VDimensionExpr {
 public:
  Expression(std::int64_t value, bool is_constant) : number(value), constant(is_constant) { mImpl = this; }
  bool isConstant() const override { return constant; }
  // TensorRT's own gives the least int for what is not constant.
  std::int64_t getConstantValue() const override { return constant ? number : INT32_MIN; }
  bool isSizeTensor() const override { return false; }
  std::int64_t number;
  bool constant;
};

}  // namespace farthing::driver
