// Between TensorRT's words and ours: types, dimensions, fields, symbolic shapes. Free of state.
#pragma once

#include <NvInferRuntime.h>

#include <cstring>
#include <limits>
#include <span>
#include <string>

#include "../cuda/contract.h"

namespace farthing::tensorrt {

inline cuda::Type from_tensorrt(nvinfer1::DataType type, const std::string& op) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return cuda::Type::f32;
    case nvinfer1::DataType::kHALF:
      return cuda::Type::f16;
    case nvinfer1::DataType::kINT8:
      return cuda::Type::i8;
    case nvinfer1::DataType::kINT32:
      return cuda::Type::i32;
    case nvinfer1::DataType::kINT64:
      return cuda::Type::i64;
    case nvinfer1::DataType::kBOOL:
      return cuda::Type::b8;
    default:
      cuda::refuse(op, "dtype of a tensor", "number " + std::to_string(static_cast<int>(type)) + " of TensorRT",
                   "float32, float16, int8, int32, int64 or bool", "cast it");
  }
}

inline nvinfer1::DataType to_tensorrt(cuda::Type type) {
  constexpr nvinfer1::DataType kTypes[] = {nvinfer1::DataType::kFLOAT, nvinfer1::DataType::kHALF,
                                           nvinfer1::DataType::kINT8,  nvinfer1::DataType::kINT32,
                                           nvinfer1::DataType::kINT64, nvinfer1::DataType::kBOOL};
  return kTypes[static_cast<int>(type)];
}

inline nvinfer1::DataType type_of(const nvinfer1::PluginTensorDesc& d) { return d.type; }
inline nvinfer1::DataType type_of(const nvinfer1::DynamicPluginTensorDesc& d) { return d.desc.type; }

inline bool known(const nvinfer1::Dims& dims) {
  for (std::int32_t i = 0; i < dims.nbDims; ++i) {
    if (dims.d[i] < 0) return false;
  }
  return true;
}

inline cuda::Tensor tensor(nvinfer1::DataType type, const nvinfer1::Dims& dims, const std::string& op) {
  cuda::Tensor t;
  t.type = from_tensorrt(type, op);
  t.rank = dims.nbDims;
  t.present = 1;
  std::copy_n(dims.d, dims.nbDims, t.dims);
  return t;
}

inline cuda::Value value_of(const nvinfer1::PluginField& field, const std::string& op) {
  const auto one = [&](auto type) {
    if (field.length != 1) {
      cuda::refuse(op, std::string("attribute ") + field.name, std::to_string(field.length) + " values", "one",
                   "correct the node");
    }
    decltype(type) value;
    std::memcpy(&value, field.data, sizeof value);
    return value;
  };
  switch (field.type) {
    case nvinfer1::PluginFieldType::kINT32:
      return static_cast<std::int64_t>(one(std::int32_t{}));
    case nvinfer1::PluginFieldType::kINT64:
      return static_cast<std::int64_t>(one(std::int64_t{}));
    case nvinfer1::PluginFieldType::kFLOAT32:
      return one(float{});
    case nvinfer1::PluginFieldType::kCHAR: {
      std::string text(static_cast<const char*>(field.data), static_cast<std::size_t>(field.length));
      while (!text.empty() && text.back() == '\0') text.pop_back();  // some writers count the closing zero
      return text;
    }
    default:
      cuda::refuse(op, std::string("type of attribute ") + field.name,
                   "number " + std::to_string(static_cast<int>(field.type)), "int, float or string",
                   "correct the node");
  }
}

// The algebra of symbolic shapes over TensorRT's expressions; see contract.h.
struct Expressions {
  using Value = nvinfer1::IDimensionExpr const*;
  nvinfer1::IExprBuilder& builder;
  std::map<std::string, Value, std::less<>> sizes;
  std::string op;

  Value constant(std::int64_t value) { return builder.constant(value); }
  Value symbol(std::string_view name) {
    const auto found = sizes.find(name);
    if (found == sizes.end()) {
      cuda::refuse(op, "size " + std::string(name) + " of an output", "unknown", "one of an input", "report this");
    }
    return found->second;
  }
  Value apply(char op_, Value a, Value b) {
    using nvinfer1::DimensionOperation;
    const DimensionOperation operation = op_ == '+'   ? DimensionOperation::kSUM
                                         : op_ == '-' ? DimensionOperation::kSUB
                                         : op_ == '*' ? DimensionOperation::kPROD
                                                      : DimensionOperation::kFLOOR_DIV;
    return builder.operation(operation, *a, *b);
  }
};

// Output shapes as expressions of the input shapes. Throws std::invalid_argument when a rank does not fit.
inline void output_shapes(const cuda::Contract& contract, const cuda::Attributes& attributes,
                          std::span<const nvinfer1::DimsExprs> inputs, std::span<nvinfer1::DimsExprs> outputs,
                          nvinfer1::IExprBuilder& builder) {
  Expressions algebra{builder, {}, contract.name};
  for (const auto& [name, value] : attributes.all()) {
    if (const auto* number = std::get_if<std::int64_t>(&value)) algebra.sizes[name] = builder.constant(*number);
  }
  for (const auto& [symbol, name] : contract.symbols) algebra.sizes[symbol] = algebra.sizes.at(name);
  std::vector<nvinfer1::IDimensionExpr const*> leading;
  for (std::size_t i = 0; i < inputs.size() && i < contract.inputs.size(); ++i) {
    const cuda::Port& port = contract.inputs[i];
    int fixed = 0;
    bool open = false;
    for (const std::string& symbol : port.shape) symbol == "..." ? open = true : ++fixed != 0;
    const int spare = inputs[i].nbDims - fixed;
    if (open ? spare < 0 : spare != 0) {
      cuda::refuse(contract.name, "rank of " + port.name, std::to_string(inputs[i].nbDims),
                   std::to_string(fixed) + (open ? " or more" : ""), "check what is connected");
    }
    int axis = 0;
    for (const std::string& symbol : port.shape) {
      if (symbol == "...") {
        if (leading.empty()) leading.assign(inputs[i].d + axis, inputs[i].d + axis + spare);
        axis += spare;
        continue;
      }
      const auto* size = inputs[i].d[axis++];
      if (cuda::is_symbol(symbol)) {
        algebra.sizes.try_emplace(symbol, size);
      } else if (const auto [factor, name] = cuda::simple_product(symbol);
                 factor > 0 && !algebra.sizes.contains(name)) {
        algebra.sizes[name] =
            builder.operation(nvinfer1::DimensionOperation::kFLOOR_DIV, *size, *builder.constant(factor));
      }
    }
  }
  for (std::size_t o = 0; o < outputs.size(); ++o) {
    nvinfer1::DimsExprs& out = outputs[o];
    out.nbDims = 0;
    for (const std::string& symbol : contract.outputs[o].shape) {
      if (symbol == "...") {
        for (const auto* size : leading) out.d[out.nbDims++] = size;
      } else {
        out.d[out.nbDims++] = cuda::evaluate(std::string_view(symbol), algebra);
      }
    }
  }
}

}  // namespace farthing::tensorrt
