// What every ONNX Runtime face of an operator shares: typed views of tensors, threads, errors, registration.
//
// An operator's op.cc defines a kernel class (read attributes once, check shapes at every call, fill the argument struct, call
// the selected kernel) and an Op description, and names it in a `Registered<Op>` variable. Nothing else has to be edited.
#pragma once

// The library is handed its API table at registration and links to no ONNX Runtime.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "parallel.h"

namespace farthing::ort {

inline constexpr std::size_t kMaxRank = 8;

// A tensor's address, element type and dimensions. data is null for an optional input that is absent.
struct View {
  const void* data = nullptr;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  std::array<std::int64_t, kMaxRank> dims{};
  std::size_t rank = 0;

  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
  std::int64_t dim(std::size_t i) const { return dims[i]; }
  std::int64_t last() const { return dims[rank - 1]; }
  std::size_t elements() const;
  std::string shape() const;  // "[2,3,64]" for messages
};

// Input `index`; a View without data when it is absent. Throws Ort::Exception.
View input(OrtKernelContext* context, std::size_t index);

// Input `index` at the making of a kernel, when it is an initialiser that cannot change; else a View without data.
View constant_input(const OrtKernelInfo* info, std::size_t index);

// Allocates output `index` with these dimensions and returns its data (a bound buffer, if the caller bound one); null for an
// optional output that nobody asked for.
void* output(OrtKernelContext* context, std::size_t index, std::span<const std::int64_t> dims);

// ONNX Runtime's own threads for this call.
Parallel threads(OrtKernelContext* context);

// Throws an Ort::Exception that reads "<op>: <what> is <found>, expected <wanted>; <fix>".
[[noreturn]] void refuse(const char* op, const std::string& what, const std::string& found, const std::string& wanted,
                         const std::string& fix);

// The operators of this library, filled by Registered<Op> before main.
std::vector<OrtCustomOp*>& table();

template <class Op>
struct Registered {
  Op op;
  Registered() { table().push_back(&op); }
};

// Base of a kernel: turns exceptions of compute() into statuses, since none may cross into ONNX Runtime.
template <class Derived>
struct Kernel {
  OrtStatusPtr ComputeV2(OrtKernelContext* context) {
    try {
      static_cast<Derived*>(this)->compute(context);
      return nullptr;
    } catch (const Ort::Exception& error) {
      return Ort::GetApi().CreateStatus(error.GetOrtErrorCode(), error.what());
    } catch (const std::exception& error) {
      return Ort::GetApi().CreateStatus(ORT_FAIL, error.what());
    }
  }
};

// Base of an operator description: name, counts and types as arrays. TKernel is constructed from const OrtKernelInfo*.
template <class Derived, class TKernel>
struct Op : Ort::CustomOpBase<Derived, TKernel, true> {
  OrtStatusPtr CreateKernelV2(const OrtApi& api, const OrtKernelInfo* info, void** kernel) const {
    try {
      *kernel = new TKernel(info);
      return nullptr;
    } catch (const std::exception& error) {
      return api.CreateStatus(ORT_INVALID_ARGUMENT, error.what());
    }
  }
  const char* GetName() const { return Derived::kName; }
  std::size_t GetInputTypeCount() const { return Derived::kInputs.size(); }
  ONNXTensorElementDataType GetInputType(std::size_t i) const { return Derived::kInputs[i]; }
  OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(std::size_t i) const {
    return i < Derived::kRequired ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  }
  std::size_t GetOutputTypeCount() const { return Derived::kOutputs.size(); }
  ONNXTensorElementDataType GetOutputType(std::size_t i) const { return Derived::kOutputs[i]; }
  // A description may say kRequiredOutputs; without it every output is required.
  OrtCustomOpInputOutputCharacteristic GetOutputCharacteristic(std::size_t i) const {
    if constexpr (requires { Derived::kRequiredOutputs; }) {
      return i < Derived::kRequiredOutputs ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
    } else {
      return INPUT_OUTPUT_REQUIRED;
    }
  }
};

inline constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
inline constexpr auto kHalf = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
inline constexpr auto kInt8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
inline constexpr auto kInt32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
inline constexpr auto kBool = ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;  // one byte an element
inline constexpr auto kInt64 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
inline constexpr auto kAny = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;  // checked by the kernel

// "float16" and the like, for messages.
const char* type_name(ONNXTensorElementDataType type);

// Attributes by name; throws when missing.
std::int64_t int_attribute(const OrtKernelInfo* info, const char* name);
float float_attribute(const OrtKernelInfo* info, const char* name);
std::int64_t int_attribute(const OrtKernelInfo* info, const char* name, std::int64_t fallback);
float float_attribute(const OrtKernelInfo* info, const char* name, float fallback);
std::string string_attribute(const OrtKernelInfo* info, const char* name);
std::string string_attribute(const OrtKernelInfo* info, const char* name, const std::string& fallback);

}  // namespace farthing::ort
