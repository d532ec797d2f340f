#include "ort_op.h"

namespace farthing::ort {
namespace {

void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = Ort::GetApi().GetErrorMessage(status);
  const OrtErrorCode code = Ort::GetApi().GetErrorCode(status);
  Ort::GetApi().ReleaseStatus(status);
  throw Ort::Exception(std::string(message), code);
}

View view_of(const OrtValue* value) {
  View view;
  if (value == nullptr) return view;
  const OrtApi& api = Ort::GetApi();
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api.GetTensorTypeAndShape(value, &info));
  check(api.GetTensorElementType(info, &view.type));
  check(api.GetDimensionsCount(info, &view.rank));
  if (view.rank <= kMaxRank) check(api.GetDimensions(info, view.dims.data(), view.rank));
  api.ReleaseTensorTypeAndShapeInfo(info);
  if (view.rank > kMaxRank) throw Ort::Exception("rank of an input is above 8", ORT_INVALID_ARGUMENT);
  void* data = nullptr;
  check(api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  view.data = data;
  return view;
}

}  // namespace

std::size_t View::elements() const {
  std::size_t count = 1;
  for (std::size_t i = 0; i < rank; ++i) count *= static_cast<std::size_t>(dims[i]);
  return count;
}

std::string View::shape() const {
  std::string text = "[";
  for (std::size_t i = 0; i < rank; ++i) text += (i ? "," : "") + std::to_string(dims[i]);
  return text + "]";
}

View input(OrtKernelContext* context, std::size_t index) {
  const OrtApi& api = Ort::GetApi();
  std::size_t count = 0;
  check(api.KernelContext_GetInputCount(context, &count));
  const OrtValue* value = nullptr;
  if (index < count) check(api.KernelContext_GetInput(context, index, &value));
  return view_of(value);
}

View constant_input(const OrtKernelInfo* info, std::size_t index) {
  const OrtApi& api = Ort::GetApi();
  std::size_t count = 0;
  check(api.KernelInfo_GetInputCount(info, &count));
  const OrtValue* value = nullptr;
  int constant = 0;
  if (index < count) check(api.KernelInfoGetConstantInput_tensor(info, index, &constant, &value));
  return constant ? view_of(value) : View{};
}

void* output(OrtKernelContext* context, std::size_t index, std::span<const std::int64_t> dims) {
  const OrtApi& api = Ort::GetApi();
  OrtValue* value = nullptr;
  std::size_t count = 0;
  check(api.KernelContext_GetOutputCount(context, &count));
  if (index >= count) return nullptr;
  check(api.KernelContext_GetOutput(context, index, dims.data(), dims.size(), &value));
  if (value == nullptr) return nullptr;
  void* data = nullptr;
  check(api.GetTensorMutableData(value, &data));
  return data;
}

Parallel threads(OrtKernelContext* context) {
  return {
      context, [](void* owner, void (*fn)(void*, std::size_t), std::size_t count, void* data) {
        // One batch per task: tasks are tens of microseconds, and the pool balances them.
        check(Ort::GetApi().KernelContext_ParallelFor(static_cast<OrtKernelContext*>(owner), fn, count, count, data));
      }};
}

void refuse(const char* op, const std::string& what, const std::string& found, const std::string& wanted,
            const std::string& fix) {
  throw Ort::Exception(std::string(op) + ": " + what + " is " + found + ", expected " + wanted + "; " + fix,
                       ORT_INVALID_ARGUMENT);
}

std::vector<OrtCustomOp*>& table() {
  static std::vector<OrtCustomOp*> ops;
  return ops;
}

const char* type_name(ONNXTensorElementDataType type) {
  switch (type) {
    case kFloat:
      return "float32";
    case kHalf:
      return "float16";
    case kInt8:
      return "int8";
    case kInt32:
      return "int32";
    case kInt64:
      return "int64";
    case kBool:
      return "bool";
    default:
      return "another type";
  }
}

std::int64_t int_attribute(const OrtKernelInfo* info, const char* name) {
  std::int64_t value = 0;
  check(Ort::GetApi().KernelInfoGetAttribute_int64(info, name, &value));
  return value;
}

float float_attribute(const OrtKernelInfo* info, const char* name) {
  float value = 0;
  check(Ort::GetApi().KernelInfoGetAttribute_float(info, name, &value));
  return value;
}

std::int64_t int_attribute(const OrtKernelInfo* info, const char* name, std::int64_t fallback) {
  try {
    return int_attribute(info, name);
  } catch (const Ort::Exception&) {
    return fallback;
  }
}

float float_attribute(const OrtKernelInfo* info, const char* name, float fallback) {
  try {
    return float_attribute(info, name);
  } catch (const Ort::Exception&) {
    return fallback;
  }
}

std::string string_attribute(const OrtKernelInfo* info, const char* name) {
  std::size_t size = 0;
  check(Ort::GetApi().KernelInfoGetAttribute_string(info, name, nullptr, &size));
  std::string value(size, '\0');
  check(Ort::GetApi().KernelInfoGetAttribute_string(info, name, value.data(), &size));
  value.resize(size ? size - 1 : 0);  // ONNX Runtime counts and writes the closing zero
  return value;
}

std::string string_attribute(const OrtKernelInfo* info, const char* name, const std::string& fallback) {
  try {
    return string_attribute(info, name);
  } catch (const Ort::Exception&) {
    return fallback;
  }
}

}  // namespace farthing::ort
