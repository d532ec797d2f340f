// The TensorRT face of every operator: one IPluginV3, driven by the contract and by the registration in launch.cu.
//
// Build time: types and formats are those of the contract, output shapes its symbols as expressions. Run time: onShapeChange
// checks the sizes once, enqueue launches. Attributes are serialised with the number of our interface, so that an engine made
// with another library is refused. Names newer than TensorRT 10.3 (JetPack 6.2) do not occur outside of version guards.
#pragma once

#include <NvInferRuntime.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../cuda/operator.h"

namespace farthing::tensorrt {

inline constexpr char const* kNamespace = "farthing";  // the ONNX domain: TensorRT 10.10 and later look it up by that
inline constexpr char const* kVersion = "1";           // of the domain
inline constexpr std::int32_t kAbi = 1;                // of serialised plugins; goes up when their meaning changes
inline constexpr char const* kAbiField = "farthing_abi";

// Says why something is refused: on TensorRT's own log where it gave us one, else on stderr.
void report(const std::string& text) noexcept;
void set_logger(nvinfer1::ILogger* logger) noexcept;

// Attributes as TensorRT's fields. The collection points into this object, which must stay.
class Fields {
 public:
  Fields(const cuda::Attributes& attributes, bool with_abi);
  Fields(const Fields&) = delete;
  Fields& operator=(const Fields&) = delete;
  const nvinfer1::PluginFieldCollection* collection() const { return &collection_; }

 private:
  std::map<std::string, cuda::Value, std::less<>> values_;
  std::map<std::string, std::int32_t, std::less<>> integers_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

// A plugin of operator `op`. Throws std::invalid_argument when the fields do not fit; `serialised`: they come from an engine.
nvinfer1::IPluginV3* make_plugin(const cuda::Operator& op, const nvinfer1::PluginFieldCollection& fields,
                                 bool serialised);

}  // namespace farthing::tensorrt
