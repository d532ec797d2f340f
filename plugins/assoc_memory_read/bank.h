// What both memory operators ask of their bank before a kernel sees it.
#pragma once

#include <cmath>

#include "../native/ort_op.h"
#include "kernel.h"

namespace farthing {

// The bank of inputs mem and mem_scale, checked; throws the operator's refusal. c is the width it must have.
inline Memory checked_memory(const char* op, const ort::View& mem, const ort::View& step, std::int64_t c) {
  if (mem.data == nullptr) ort::refuse(op, "mem", "missing", "a bank [M,C]", "connect it");
  if (mem.rank != 2 || mem.dim(0) < 1 || mem.dim(1) != c || c < 1) {
    ort::refuse(op, "mem", mem.shape(), "[M," + std::to_string(c) + "] with M of at least 1",
                "check which bank is connected");
  }
  const bool bytes = mem.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
  if (!bytes && mem.type != ort::kFloat && mem.type != ort::kHalf) {
    ort::refuse(op, "dtype of mem", std::to_string(mem.type), "float32, float16 or int8", "cast the bank");
  }
  const std::string wanted = bytes ? "[" + std::to_string(mem.dim(0)) + "]" : "absent for a float bank";
  if (bytes != (step.data != nullptr) || (bytes && (step.rank != 1 || step.dim(0) != mem.dim(0)))) {
    ort::refuse(op, "mem_scale", step.data ? step.shape() : "missing", wanted, "an int8 bank has one scale a slot");
  }
  return {mem.data, step.as<float>(),
          bytes                    ? MemoryType::int8
          : mem.type == ort::kHalf ? MemoryType::float16
                                   : MemoryType::float32,
          static_cast<std::size_t>(mem.dim(0)), static_cast<std::size_t>(c)};
}

// Refuses a constant input that holds NaN or infinity: once, when the session is made. Float32 and float16.
inline void refuse_nonfinite(const char* op, const OrtKernelInfo* info, std::size_t index, const char* what) {
  const OrtApi& api = Ort::GetApi();
  std::size_t count = 0;
  if (OrtStatus* status = api.KernelInfo_GetInputCount(info, &count)) return api.ReleaseStatus(status);
  if (index >= count) return;
  int constant = 0;
  const OrtValue* value = nullptr;
  if (OrtStatus* status = api.KernelInfoGetConstantInput_tensor(info, index, &constant, &value)) {
    return api.ReleaseStatus(status);
  }
  if (!constant || value == nullptr) return;
  const Ort::ConstValue tensor{value};
  const auto shape = tensor.GetTensorTypeAndShapeInfo();
  const std::size_t elements = shape.GetElementCount();
  const bool half = shape.GetElementType() == ort::kHalf;
  if (!half && shape.GetElementType() != ort::kFloat) return;
  for (std::size_t i = 0; i < elements; ++i) {
    const bool finite = half ? (tensor.GetTensorData<Ort::Float16_t>()[i].val & 0x7c00) != 0x7c00
                             : std::isfinite(tensor.GetTensorData<float>()[i]);
    if (!finite) {
      ort::refuse(op, std::string(what) + " at index " + std::to_string(i), "not finite", "finite numbers",
                  "fetch or train the checkpoint again");
    }
  }
}

}  // namespace farthing
