// libcudart and libnvinfer, loaded at run time: nothing of farthing links to them.
#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>

namespace farthing {

// The functions of libcudart that the backend calls, by their own names.
struct Cuda {
  // clang-format off
#define FARTHING_CUDA_FUNCTIONS(X) \
  X(cudaGetDeviceCount)            \
  X(cudaRuntimeGetVersion)         \
  X(cudaDeviceGetAttribute)        \
  X(cudaGetErrorString)            \
  X(cudaSetDevice)                 \
  X(cudaMalloc)                    \
  X(cudaMallocHost)                \
  X(cudaFree)                      \
  X(cudaFreeHost)                  \
  X(cudaMemset)                    \
  X(cudaMemcpyAsync)               \
  X(cudaStreamCreate)              \
  X(cudaStreamDestroy)             \
  X(cudaStreamSynchronize)         \
  X(cudaStreamBeginCapture)        \
  X(cudaStreamEndCapture)          \
  X(cudaGraphInstantiate)          \
  X(cudaGraphDestroy)              \
  X(cudaGraphExecDestroy)          \
  X(cudaGraphLaunch)               \
  X(cudaMallocManaged)
  // clang-format on
#define FARTHING_CUDA_MEMBER(name) decltype(&::name) name = nullptr;
  FARTHING_CUDA_FUNCTIONS(FARTHING_CUDA_MEMBER)
#undef FARTHING_CUDA_MEMBER

  // Throws Error(internal) with CUDA's words when status is not cudaSuccess.
  void check(cudaError_t status, const char* what) const;
};

// Loads libcudart once: `path`, FARTHING_CUDART, or the system's of the major version of our headers. Throws Error(environment).
const Cuda& load_cuda(const std::string& path);

// Makes device 0 current and returns its compute capability, e.g. 87. Throws Error(environment) where there is none.
std::int64_t need_device(const Cuda& cuda);

struct TensorRt {
  std::string version;  // "10.3.0"
  nvinfer1::IRuntime* (*create)(nvinfer1::ILogger& logger) = nullptr;
};

// Loads libnvinfer once: `path`, FARTHING_TENSORRT, or the system's. Call need_device() before create(). Throws Error(environment)
// when it is missing or of another major version than our headers: the interfaces are C++ classes.
const TensorRt& load_tensorrt(const std::string& path);

// The ABI in what farthing_tensorrt_about() of the library says. Throws Error(environment).
std::int64_t plugin_abi_of(const std::string& path);

}  // namespace farthing
