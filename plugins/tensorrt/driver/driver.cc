// Interrogates libfarthing_tensorrt.so through a TensorRT registry, without a device:  driver LIBNVINFER PLUGINS < cases
// For each case one line:  NAME ok | NAME refused TEXT | NAME failed TEXT.   enqueue is not called: it needs a device.
#include <dlfcn.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <iostream>
#include <memory>

#include "cases.h"
#include "expressions.h"
#include "registry.h"

namespace farthing::driver {
namespace {

using namespace nvinfer1;

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void expect(bool holds, const std::string& what) {
  if (!holds) throw Failure(what);
}

// Keeps what the plugin logs.
class Log : public ILogger {
 public:
  void log(Severity, AsciiChar const* text) noexcept override { last = text; }
  std::string last;
} logger;

class Finder : public ILoggerFinder {
 public:
  ILogger* findLogger() override { return &logger; }
} finder;

std::vector<PluginField> fields_of(const Case& c) {
  std::vector<PluginField> fields;
  for (const AttributeCase& a : c.attributes) {
    if (a.kind == "int") fields.emplace_back(a.name.c_str(), &a.integer, PluginFieldType::kINT32, 1);
    if (a.kind == "float") fields.emplace_back(a.name.c_str(), &a.real, PluginFieldType::kFLOAT32, 1);
    if (a.kind == "string") {
      fields.emplace_back(a.name.c_str(), a.text.data(), PluginFieldType::kCHAR,
                          static_cast<std::int32_t>(a.text.size()));
    }
  }
  return fields;
}

std::unique_ptr<IPluginV3> create(IPluginCreatorV3One& creator, const std::vector<PluginField>& fields,
                                  TensorRTPhase phase) {
  logger.last.clear();
  const PluginFieldCollection collection{static_cast<std::int32_t>(fields.size()), fields.data()};
  return std::unique_ptr<IPluginV3>(creator.createPlugin("node", &collection, phase));
}

template <class T>
T& capability(IPluginV3& plugin, PluginCapabilityType type, const char* kind) {
  IPluginCapability* found = plugin.getCapabilityInterface(type);
  expect(found != nullptr, std::string("no capability ") + kind);
  expect(std::strcmp(found->getInterfaceInfo().kind, kind) == 0, std::string("capability is not ") + kind);
  return *static_cast<T*>(found);
}

DynamicPluginTensorDesc desc(const TensorCase& t) {
  DynamicPluginTensorDesc d{};
  d.desc.dims = d.min = d.opt = d.max = t.dims;
  d.desc.type = t.type;
  d.desc.format = TensorFormat::kLINEAR;
  return d;
}

std::vector<DynamicPluginTensorDesc> descs(const Case& c) {
  std::vector<DynamicPluginTensorDesc> all;
  for (const auto& t : c.inputs) all.push_back(desc(t));
  for (const auto& t : c.outputs) all.push_back(desc(t));
  return all;
}

std::int32_t count(std::size_t n) { return static_cast<std::int32_t>(n); }

void check_types(IPluginV3OneBuild& build, const Case& c) {
  std::vector<DataType> in, out(c.outputs.size());
  for (const auto& t : c.inputs) in.push_back(t.type);
  expect(build.getNbOutputs() == count(c.outputs.size()),
         "number of outputs is " + std::to_string(build.getNbOutputs()));
  expect(build.getOutputDataTypes(out.data(), count(out.size()), in.data(), count(in.size())) == 0, logger.last);
  for (std::size_t i = 0; i < out.size(); ++i) {
    expect(out[i] == c.outputs[i].type, "type of output " + std::to_string(i) + " is number " +
                                            std::to_string(static_cast<int>(out[i])) + ", expected " +
                                            std::to_string(static_cast<int>(c.outputs[i].type)));
  }
}

void check_shapes(IPluginV3OneBuild& build, const Case& c) {
  Builder builder;
  std::vector<DimsExprs> in(c.inputs.size()), out(c.outputs.size());
  for (std::size_t i = 0; i < in.size(); ++i) {
    in[i].nbDims = c.inputs[i].dims.nbDims;
    for (int d = 0; d < in[i].nbDims; ++d) in[i].d[d] = builder.dynamic(c.inputs[i].dims.d[d]);
  }
  expect(build.getOutputShapes(in.data(), count(in.size()), nullptr, 0, out.data(), count(out.size()), builder) == 0,
         "output shapes: " + logger.last);
  for (std::size_t o = 0; o < out.size(); ++o) {
    const Dims& wanted = c.outputs[o].dims;
    if (!c.outputs[o].known) continue;
    const std::string which = "output " + std::to_string(o);
    expect(out[o].nbDims == wanted.nbDims,
           "rank of " + which + " is " + std::to_string(out[o].nbDims) + ", expected " + std::to_string(wanted.nbDims));
    for (int d = 0; d < wanted.nbDims; ++d) {
      expect(out[o].d[d] != nullptr && Builder::value(*out[o].d[d]) == wanted.d[d],
             "size " + std::to_string(d) + " of " + which + " is " +
                 (out[o].d[d] ? std::to_string(Builder::value(*out[o].d[d])) : "none") + ", expected " +
                 std::to_string(wanted.d[d]));
    }
  }
}

// The format and types of the case are taken; every other format and every type that the contract does not allow is not.
void check_formats(IPluginV3OneBuild& build, const Case& c) {
  std::vector<DynamicPluginTensorDesc> all = descs(c);
  const auto supported = [&](std::size_t i) {
    return build.supportsFormatCombination(count(i), all.data(), count(c.inputs.size()), count(c.outputs.size()));
  };
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::string which = "tensor " + std::to_string(i);
    const std::set<int>& allowed = i < c.inputs.size() ? c.inputs[i].allowed : c.outputs[i - c.inputs.size()].allowed;
    if (!supported(i)) throw Failure("format of " + which + " is refused, expected linear of its type to be taken");
    for (TensorFormat format : {TensorFormat::kCHW2, TensorFormat::kHWC8, TensorFormat::kCHW32, TensorFormat::kHWC}) {
      all[i].desc.format = format;
      expect(!supported(i), "format " + std::to_string(static_cast<int>(format)) + " of " + which + " is taken");
    }
    all[i].desc.format = TensorFormat::kLINEAR;
    const DataType own = all[i].desc.type;
    for (int type = 0; type <= static_cast<int>(DataType::kINT4); ++type) {
      if (allowed.count(type)) continue;
      all[i].desc.type = static_cast<DataType>(type);
      expect(!supported(i), "type number " + std::to_string(type) + " of " + which + " is taken");
    }
    all[i].desc.type = own;
  }
}

void check_configure(IPluginV3OneBuild& build, const Case& c) {
  std::vector<DynamicPluginTensorDesc> all = descs(c);
  logger.last.clear();
  const auto configure = [&] {
    return build.configurePlugin(all.data(), count(c.inputs.size()), all.data() + c.inputs.size(),
                                 count(c.outputs.size()));
  };
  if (configure() != 0) throw Refused(logger.last);
  build.getWorkspaceSize(all.data(), count(c.inputs.size()), all.data() + c.inputs.size(), count(c.outputs.size()));
  // Once more with every size of the graph dynamic: only the profile has numbers.
  for (auto& d : all) {
    for (int i = 0; i < d.desc.dims.nbDims; ++i) d.desc.dims.d[i] = -1;
  }
  expect(configure() == 0, "dynamic sizes are refused: " + logger.last);
}

bool same_fields(const PluginFieldCollection& a, const PluginFieldCollection& b) {
  if (a.nbFields != b.nbFields) return false;
  for (int i = 0; i < a.nbFields; ++i) {
    const PluginField &x = a.fields[i], &y = b.fields[i];
    if (std::strcmp(x.name, y.name) != 0 || x.type != y.type || x.length != y.length) return false;
    const std::size_t bytes = static_cast<std::size_t>(x.length) * (x.type == PluginFieldType::kCHAR ? 1 : 4);
    if (std::memcmp(x.data, y.data, bytes) != 0) return false;
  }
  return true;
}

// What is serialised makes an equal plugin; without the number of our interface, or with another one, none at all.
void check_serialisation(IPluginCreatorV3One& creator, IPluginV3& plugin, const Case& c) {
  auto& runtime = capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME, "PLUGIN_V3ONE_RUNTIME");
  const PluginFieldCollection* saved = runtime.getFieldsToSerialize();
  expect(saved != nullptr && saved->nbFields == creator.getFieldNames()->nbFields + 1,
         "fields to serialise are incomplete");
  std::vector<PluginField> fields(saved->fields, saved->fields + saved->nbFields);
  const auto again = create(creator, fields, TensorRTPhase::kRUNTIME);
  expect(again != nullptr, "serialised fields are refused: " + logger.last);
  auto& other = capability<IPluginV3OneRuntime>(*again, PluginCapabilityType::kRUNTIME, "PLUGIN_V3ONE_RUNTIME");
  expect(same_fields(*saved, *other.getFieldsToSerialize()), "serialised fields differ after a round trip");
  check_shapes(*static_cast<IPluginV3OneBuild*>(again->getCapabilityInterface(PluginCapabilityType::kBUILD)), c);

  const std::int32_t foreign = 999;
  for (PluginField& field : fields) {
    if (std::strcmp(field.name, "farthing_abi") == 0) field.data = &foreign;
  }
  expect(create(creator, fields, TensorRTPhase::kRUNTIME) == nullptr, "an engine of another interface is taken");
  expect(logger.last.find("999, expected") != std::string::npos,
         "refusal of another interface is '" + logger.last + "'");
  fields.pop_back();
  expect(create(creator, fields, TensorRTPhase::kRUNTIME) == nullptr,
         "an engine without our interface's number is taken");
}

void check_clone(IPluginV3& plugin) {
  auto& runtime = capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME, "PLUGIN_V3ONE_RUNTIME");
  for (const bool attach : {false, true}) {
    std::unique_ptr<IPluginV3> copy(attach ? runtime.attachToContext(nullptr) : plugin.clone());
    expect(copy != nullptr && copy.get() != &plugin, "a clone is missing");
    auto& other = capability<IPluginV3OneRuntime>(*copy, PluginCapabilityType::kRUNTIME, "PLUGIN_V3ONE_RUNTIME");
    expect(same_fields(*runtime.getFieldsToSerialize(), *other.getFieldsToSerialize()), "a clone has other attributes");
  }
}

void check_runtime_shapes(IPluginV3& plugin, const Case& c) {
  auto& runtime = capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME, "PLUGIN_V3ONE_RUNTIME");
  std::vector<PluginTensorDesc> in, out;
  for (const auto& d : c.inputs) in.push_back(desc(d).desc);
  for (const auto& d : c.outputs) out.push_back(desc(d).desc);
  const int status = runtime.onShapeChange(in.data(), count(in.size()), out.data(), count(out.size()));
  expect(status == 0, "shapes at run time are refused: " + logger.last);
}

void check(Registry& registry, const Case& c) {
  IPluginCreatorInterface* found = registry.creator(c.op.c_str(), "1", "farthing");
  expect(found != nullptr, "no creator in the registry");
  expect(std::strcmp(found->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") == 0, "creator is not of version 3");
  auto& creator = *static_cast<IPluginCreatorV3One*>(found);
  const auto plugin = create(creator, fields_of(c), TensorRTPhase::kBUILD);
  if (!plugin) throw Refused(logger.last);
  auto& core = capability<IPluginV3OneCore>(*plugin, PluginCapabilityType::kCORE, "PLUGIN_V3ONE_CORE");
  auto& build = capability<IPluginV3OneBuild>(*plugin, PluginCapabilityType::kBUILD, "PLUGIN_V3ONE_BUILD");
  expect(c.op == core.getPluginName() && std::strcmp(core.getPluginNamespace(), "farthing") == 0,
         "name or namespace differ");
  check_configure(build, c);
  check_types(build, c);
  check_shapes(build, c);
  check_formats(build, c);
  if (!c.alias.empty()) {
    expect(build.getInterfaceInfo().major == 2, "outputs share buffers, but the build interface is not of version 2");
    for (const auto& [output, input] : c.alias) {
      expect(static_cast<IPluginV3OneBuildV2&>(build).getAliasedInput(output) == input, "aliased input differs");
    }
  }
  check_clone(*plugin);
  check_serialisation(creator, *plugin, c);
  check_runtime_shapes(*plugin, c);
}

std::string one_line(std::string text) {
  for (char& c : text) c = c == '\n' ? ' ' : c;
  return text;
}

}  // namespace
}  // namespace farthing::driver

int main(int argc, char** argv) {
  using namespace farthing::driver;
  if (argc != 3) return std::cerr << "usage: driver LIBNVINFER PLUGINS < cases\n", 2;
  void* runtime = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
  if (!runtime) return std::cerr << dlerror() << "\n", 2;
  auto* get = reinterpret_cast<void* (*)()>(dlsym(runtime, "getPluginRegistry"));
  auto* version = reinterpret_cast<std::int32_t (*)()>(dlsym(runtime, "getInferLibVersion"));
  if (!get || !version) return std::cerr << argv[1] << " has no plugin registry\n", 2;
  // Versions are 1000 * major + ... until 9, and 10000 * major + 100 * minor + patch since 10.
  Registry registry(get(), version() / 10000);
  if (!registry.load(argv[2])) return std::cerr << "the registry does not load " << argv[2] << "\n", 2;
  // The registry has opened the library; the same one again, to give it a log of ours.
  void* plugins = dlopen(argv[2], RTLD_NOW);
  if (!plugins) return std::cerr << dlerror() << "\n", 2;
  reinterpret_cast<void (*)(nvinfer1::ILoggerFinder*)>(dlsym(plugins, "setLoggerFinder"))(&finder);
  std::cout << "registry " << version() << " "
            << reinterpret_cast<const char* (*)()>(dlsym(plugins, "farthing_tensorrt_about"))() << "\n";
  Case c;
  while (read(std::cin, c)) {
    try {
      check(registry, c);
      std::cout << c.name << " ok\n";
    } catch (const Refused& refusal) {
      std::cout << c.name << " refused " << one_line(refusal.what()) << "\n";
    } catch (const std::exception& error) {
      std::cout << c.name << " failed " << one_line(error.what()) << "\n";
    }
  }
  std::cout.flush();
  _exit(0);  // without a device some libraries of NVIDIA crash in their destructors
}
