// What TensorRT's registry looks up in libfarthing_tensorrt.so: a creator per operator, and where to log.
#include <cstdio>
#include <cstring>
#include <mutex>

#include "plugin.h"

namespace farthing::tensorrt {
namespace {

using namespace nvinfer1;

ILogger* logger = nullptr;

class Creator final : public IPluginCreatorV3One {
 public:
  explicit Creator(const cuda::Operator& op) : op_(op) {
    for (const cuda::AttributeSpec& spec : op.contract->attributes) {
      constexpr PluginFieldType kTypes[] = {PluginFieldType::kINT32, PluginFieldType::kFLOAT32, PluginFieldType::kCHAR};
      fields_.emplace_back(spec.name.c_str(), nullptr, kTypes[spec.value.index()], 1);
    }
    collection_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
  }

  IPluginV3* createPlugin(AsciiChar const*, PluginFieldCollection const* fields,
                          TensorRTPhase phase) noexcept override {
    try {
      const PluginFieldCollection none{0, nullptr};
      return make_plugin(op_, fields ? *fields : none, phase == TensorRTPhase::kRUNTIME);
    } catch (const std::exception& error) {
      report(error.what());
      return nullptr;
    }
  }
  PluginFieldCollection const* getFieldNames() noexcept override { return &collection_; }
  AsciiChar const* getPluginName() const noexcept override { return op_.name; }
  AsciiChar const* getPluginVersion() const noexcept override { return kVersion; }
  AsciiChar const* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  const cuda::Operator& op_;
  std::vector<PluginField> fields_;
  PluginFieldCollection collection_;
};

std::vector<IPluginCreatorInterface*>& creators() {
  static std::vector<IPluginCreatorInterface*> all = [] {
    std::vector<IPluginCreatorInterface*> made;  // for the life of the process, as the registry keeps pointers
    for (const cuda::Operator& op : cuda::operators()) made.push_back(new Creator(op));
    return made;
  }();
  return all;
}

}  // namespace

void set_logger(ILogger* to) noexcept { logger = to; }

void report(const std::string& text) noexcept {
  if (logger) {
    logger->log(ILogger::Severity::kERROR, text.c_str());
  } else {
    std::fprintf(stderr, "%s\n", text.c_str());
  }
}

}  // namespace farthing::tensorrt

extern "C" {

__attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  auto& all = farthing::tensorrt::creators();
  count = static_cast<std::int32_t>(all.size());
  return all.data();
}

__attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  farthing::tensorrt::set_logger(finder ? finder->findLogger() : nullptr);
}

// "abi 1; headers 10.14; operators AddRMSNorm ...": part of the key of a cached engine.
__attribute__((visibility("default"))) const char* farthing_tensorrt_about() {
  static const std::string text = [] {
    std::string about = "abi " + std::to_string(farthing::tensorrt::kAbi) + "; headers " +
                        std::to_string(NV_TENSORRT_MAJOR) + "." + std::to_string(NV_TENSORRT_MINOR) + "; operators";
    for (const auto& op : farthing::cuda::operators()) about += std::string(" ") + op.name;
    return about;
  }();
  return text.c_str();
}

}  // extern "C"
