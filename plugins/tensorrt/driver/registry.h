// The two calls that the driver needs of a plugin registry, for libraries of either generation.
//
// TensorRT 11 dropped the members of IPluginRegistry that took plugins of version 2, and so moved the others: a program
// compiled with headers of 10 would call the wrong ones. Plugins themselves are not concerned (their interfaces carry versions).
#pragma once

#include <NvInferRuntime.h>

namespace farthing::driver {

class Registry {
 public:
  // `address` as getPluginRegistry() of the library gave it, `major` its version.
  Registry(void* address, int major) : address_(address), compact_(major >= 11 && NV_TENSORRT_MAJOR < 11) {}

  void* load(const char* path) { return compact_ ? compact().loadLibrary(path) : plain().loadLibrary(path); }
  nvinfer1::IPluginCreatorInterface* creator(const char* name, const char* version, const char* space) {
    return compact_ ? compact().getCreator(name, version, space) : plain().getCreator(name, version, space);
  }

 private:
  // The order of virtual members is all that counts here.
  class Compact {
   public:
    virtual ~Compact() = default;
    virtual void setErrorRecorder(void*) = 0;
    virtual void* getErrorRecorder() = 0;
    virtual bool isParentSearchEnabled() = 0;
    virtual void setParentSearchEnabled(bool) = 0;
    virtual void* loadLibrary(const char*) = 0;
    virtual void deregisterLibrary(void*) = 0;
    virtual bool registerCreator(void*, const char*) = 0;
    virtual void* getAllCreators(std::int32_t*) = 0;
    virtual nvinfer1::IPluginCreatorInterface* getCreator(const char*, const char*, const char*) = 0;
  };

  Compact& compact() { return *static_cast<Compact*>(address_); }
  nvinfer1::IPluginRegistry& plain() { return *static_cast<nvinfer1::IPluginRegistry*>(address_); }

  void* address_;
  bool compact_;
};

}  // namespace farthing::driver
