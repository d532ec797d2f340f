// ONNX Runtime face of farthing::QuantizedLinear. The weight must be constant; it is packed once, when the session is made, and the file's
// pages are given back.
#include "../native/large_pages.h"
#include "../native/ort_op.h"
#include "kernel.h"

namespace farthing {
namespace {

constexpr const char* kOp = "QuantizedLinear";

// Bits of a type of codes; 0 for others.
int bits(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT4:
      return 4;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
      return 8;
    default:
      return 0;
  }
}

bool is_signed(ONNXTensorElementDataType type) {
  return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4 || type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
}

struct QuantizedLinearKernel : ort::Kernel<QuantizedLinearKernel> {
  QuantShape shape;
  std::shared_ptr<const void> packed;  // null: not all of the weight is constant

  explicit QuantizedLinearKernel(const OrtKernelInfo* info) {
    shape.block = static_cast<std::size_t>(Ort::ConstKernelInfo(info).GetAttribute<std::int64_t>("block_size"));
    const ort::View codes = ort::constant_input(info, 1), scales = ort::constant_input(info, 2);
    if (codes.data == nullptr || scales.data == nullptr) return;
    const ort::View zeros = ort::constant_input(info, 3);
    check(codes, scales, zeros);
    const std::size_t bytes = shape.panel_bytes();
    const std::shared_ptr<void> made = large_pages(shape.panels() * bytes);
    const QuantSource source{codes.data, scales.as<float>(), zeros.data, is_signed(codes.type)};
    pack_quantized(shape, source, 0, shape.panels(), made.get());
    release_file_pages(codes.data, shape.n * shape.k * static_cast<std::size_t>(bits(codes.type)) / 8);
    release_file_pages(scales.data, shape.n * shape.blocks() * sizeof(float));
    packed = made;
  }

  void check(const ort::View& codes, const ort::View& scales, const ort::View& zeros) {
    if (shape.block < 16 || shape.block > 256 || (shape.block & (shape.block - 1)) != 0) {
      ort::refuse(kOp, "block_size", std::to_string(shape.block), "a power of two from 16 to 256", "quantize again");
    }
    if (bits(codes.type) == 0) {
      ort::refuse(kOp, "dtype of codes", ort::type_name(codes.type), "int4, uint4, int8 or uint8", "quantize again");
    }
    if (codes.rank != 2) ort::refuse(kOp, "codes", codes.shape(), "[K,N]", "reshape the weight");
    shape.k = static_cast<std::size_t>(codes.dim(0));
    shape.n = static_cast<std::size_t>(codes.dim(1));
    shape.nibbles = bits(codes.type) == 4;
    shape.zeros = zeros.data != nullptr;
    shape.middle = is_signed(codes.type) ? (shape.nibbles ? 8.0f : 128.0f) : 0.0f;
    const std::string wanted = "[" + std::to_string(shape.blocks()) + "," + std::to_string(shape.n) + "]";
    const auto fits = [&](const ort::View& v) {
      return v.rank == 2 && v.dim(0) == static_cast<std::int64_t>(shape.blocks()) && v.dim(1) == codes.dim(1);
    };
    if (scales.type != ort::kFloat || !fits(scales)) {
      ort::refuse(kOp, "scales", scales.shape(), "float32 " + wanted, "quantize again");
    }
    if (shape.zeros && (zeros.type != codes.type || !fits(zeros))) {
      ort::refuse(kOp, "zeros", zeros.shape(), wanted + " of the dtype of codes", "quantize again");
    }
  }

  void compute(OrtKernelContext* context) {
    const ort::View x = ort::input(context, 0);
    if (!packed || (ort::input(context, 3).data != nullptr) != shape.zeros) {
      check(ort::input(context, 1), ort::input(context, 2), ort::input(context, 3));
      ort::refuse(kOp, "weight", "computed in the graph", "codes, scales and zeros that are initializers",
                  "make them initializers, or run the body");
    }
    const auto k = static_cast<std::int64_t>(shape.k), n = static_cast<std::int64_t>(shape.n);
    if (x.rank == 0 || x.last() != k) {
      ort::refuse(kOp, "x", x.shape(), "[...," + std::to_string(k) + "]", "check which weight is connected");
    }
    auto dims = x.dims;
    dims[x.rank - 1] = n;
    auto* y = static_cast<float*>(ort::output(context, 0, {dims.data(), x.rank}));
    std::size_t rows = 1;
    for (std::size_t i = 0; i + 1 < x.rank; ++i) rows *= static_cast<std::size_t>(x.dims[i]);
    if (rows == 0 || n == 0) return;
    static const auto kernel = FARTHING_SELECT(quantized_linear);
    kernel({x.as<float>(), packed.get(), y, rows, shape}, ort::threads(context));
  }
};

struct QuantizedLinearOp : ort::Op<QuantizedLinearOp, QuantizedLinearKernel> {
  static constexpr const char* kName = kOp;
  static constexpr std::array kInputs{ort::kFloat, ort::kAny, ort::kFloat, ort::kAny};
  static constexpr std::size_t kRequired = 3;
  static constexpr std::array kOutputs{ort::kFloat};
};

ort::Registered<QuantizedLinearOp> registered;

}  // namespace
}  // namespace farthing
