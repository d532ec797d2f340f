#include "plugin.h"

#include <algorithm>
#include <limits>

#include "convert.h"

namespace farthing::tensorrt {

using namespace nvinfer1;

Fields::Fields(const cuda::Attributes& attributes, bool with_abi) : values_(attributes.all()) {
  for (const auto& [name, value] : values_) {
    if (const auto* integer = std::get_if<std::int64_t>(&value)) {
      integers_[name] = static_cast<std::int32_t>(*integer);
      fields_.emplace_back(name.c_str(), &integers_[name], PluginFieldType::kINT32, 1);
    } else if (const auto* real = std::get_if<float>(&value)) {
      fields_.emplace_back(name.c_str(), real, PluginFieldType::kFLOAT32, 1);
    } else {
      const auto& text = std::get<std::string>(value);
      fields_.emplace_back(name.c_str(), text.data(), PluginFieldType::kCHAR, static_cast<std::int32_t>(text.size()));
    }
  }
  if (with_abi) fields_.emplace_back(kAbiField, &kAbi, PluginFieldType::kINT32, 1);
  collection_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
}

namespace {

// Runs f and reports what it throws: nothing may cross into TensorRT. 0 for success, as TensorRT wants it.
template <class F>
std::int32_t guarded(F&& f) noexcept {
  try {
    f();
    return 0;
  } catch (const std::exception& error) {
    report(error.what());
    return 1;
  }
}

// `BuildBase` is the second version of the build interface for operators whose outputs share an input's buffer.
template <class BuildBase>
class Plugin final : public IPluginV3, public IPluginV3OneCore, public BuildBase, public IPluginV3OneRuntime {
 public:
  Plugin(const cuda::Operator& op, std::shared_ptr<const cuda::Attributes> attributes)
      : op_(op), attributes_(std::move(attributes)), fields_(*attributes_, true) {}

  // --- IPluginV3
  IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    if (type == PluginCapabilityType::kCORE) return static_cast<IPluginV3OneCore*>(this);
    if (type == PluginCapabilityType::kBUILD) return static_cast<BuildBase*>(this);
    return static_cast<IPluginV3OneRuntime*>(this);
  }
  IPluginV3* clone() noexcept override {
    IPluginV3* copy = nullptr;
    guarded([&] { copy = new Plugin(op_, attributes_); });
    return copy;
  }

  // --- core
  AsciiChar const* getPluginName() const noexcept override { return op_.name; }
  AsciiChar const* getPluginVersion() const noexcept override { return kVersion; }
  AsciiChar const* getPluginNamespace() const noexcept override { return kNamespace; }

  // --- build
  std::int32_t getNbOutputs() const noexcept override { return static_cast<std::int32_t>(contract().outputs.size()); }

  std::int32_t getOutputDataTypes(DataType* outputs, std::int32_t output_count, const DataType* inputs,
                                  std::int32_t input_count) const noexcept override {
    return guarded([&] {
      expect_outputs(output_count);
      std::vector<cuda::Type> types;
      for (std::int32_t i = 0; i < input_count; ++i) types.push_back(from_tensorrt(inputs[i], op_.name));
      for (std::int32_t i = 0; i < output_count; ++i) {
        outputs[i] = to_tensorrt(cuda::output_type(contract(), types, static_cast<std::size_t>(i)));
      }
    });
  }

  std::int32_t getOutputShapes(DimsExprs const* inputs, std::int32_t input_count, DimsExprs const*, std::int32_t,
                               DimsExprs* outputs, std::int32_t output_count, IExprBuilder& builder) noexcept override {
    return guarded([&] {
      expect_outputs(output_count);
      output_shapes(contract(), *attributes_, {inputs, static_cast<std::size_t>(input_count)},
                    {outputs, static_cast<std::size_t>(output_count)}, builder);
    });
  }

  bool supportsFormatCombination(std::int32_t position, DynamicPluginTensorDesc const* tensors,
                                 std::int32_t input_count, std::int32_t output_count) noexcept override {
    bool fits = false;
    // A probe of the builder, not an error: what does not fit is not reported.
    try {
      if (tensors[position].desc.format != TensorFormat::kLINEAR) return false;
      std::vector<cuda::Type> types;
      for (std::int32_t i = 0; i <= position; ++i) types.push_back(from_tensorrt(tensors[i].desc.type, op_.name));
      const auto at = static_cast<std::size_t>(position), inputs = static_cast<std::size_t>(input_count);
      fits = cuda::type_fits(contract(), types, inputs, at).empty();
      if (fits && position == input_count + output_count - 1 && op_.supports) fits = op_.supports(types);
    } catch (const std::exception&) {
      fits = false;
    }
    return fits;
  }

  std::int32_t configurePlugin(DynamicPluginTensorDesc const* in, std::int32_t input_count,
                               DynamicPluginTensorDesc const* out, std::int32_t output_count) noexcept override {
    return guarded([&] {
      expect_outputs(output_count);
      // The shapes of the graph (-1 where dynamic), then the largest of the profile: both have to fit the contract.
      prepared(in, input_count, out, output_count, [](const auto& d) { return d.desc.dims; });
      prepared(in, input_count, out, output_count, [](const auto& d) { return known(d.max) ? d.max : d.desc.dims; });
    });
  }

  std::size_t getWorkspaceSize(DynamicPluginTensorDesc const* in, std::int32_t input_count,
                               DynamicPluginTensorDesc const* out, std::int32_t output_count) const noexcept override {
    std::size_t bytes = 0;
    if (op_.workspace) {
      guarded([&] {
        bytes = op_.workspace(prepared(in, input_count, out, output_count, [](const auto& d) { return d.max; }).call);
      });
    }
    return bytes;
  }

  // Output -> the input whose buffer it may share; TensorRT asks only with PreviewFeature::kALIASED_PLUGIN_IO_10_03 on.
  std::int32_t getAliasedInput(std::int32_t output) noexcept {
    return contract().outputs[static_cast<std::size_t>(output)].alias;
  }

  // --- runtime
  std::int32_t onShapeChange(PluginTensorDesc const* in, std::int32_t input_count, PluginTensorDesc const* out,
                             std::int32_t output_count) noexcept override {
    return guarded([&] {
      expect_outputs(output_count);
      ready_ = false;
      now_ = prepared(in, input_count, out, output_count, [](const auto& d) { return d.dims; });
      ready_ = true;
    });
  }

  std::int32_t enqueue(PluginTensorDesc const* in, PluginTensorDesc const* out, void const* const* inputs,
                       void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
    return guarded([&] {
      if (!ready_) {
        onShapeChange(in, static_cast<std::int32_t>(now_.inputs.size()), out,
                      static_cast<std::int32_t>(now_.outputs.size()));
        if (!ready_) throw std::logic_error(std::string(op_.name) + ": enqueue before shapes that fit");
      }
      for (std::size_t i = 0; i < now_.inputs.size(); ++i) now_.inputs[i].data = const_cast<void*>(inputs[i]);
      for (std::size_t i = 0; i < now_.outputs.size(); ++i) now_.outputs[i].data = outputs[i];
      now_.call.inputs = now_.inputs;
      now_.call.outputs = now_.outputs;
      now_.call.workspace = workspace;
      now_.call.stream = stream;
      op_.run(now_.call);
    });
  }

  IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }
  PluginFieldCollection const* getFieldsToSerialize() noexcept override { return fields_.collection(); }

 private:
  struct Prepared {
    std::vector<cuda::Tensor> inputs, outputs;
    cuda::Call call{};
  };

  const cuda::Contract& contract() const { return *op_.contract; }

  void expect_outputs(std::int32_t count) const {
    if (count != getNbOutputs()) {
      cuda::refuse(op_.name, "number of outputs", std::to_string(count), std::to_string(getNbOutputs()),
                   "export again");
    }
  }

  template <class Desc, class DimsOf>
  Prepared prepared(const Desc* in, std::int32_t input_count, const Desc* out, std::int32_t output_count,
                    DimsOf dims_of) const {
    Prepared p;
    for (std::int32_t i = 0; i < input_count; ++i) p.inputs.push_back(tensor(type_of(in[i]), dims_of(in[i]), op_.name));
    for (std::int32_t i = 0; i < output_count; ++i)
      p.outputs.push_back(tensor(type_of(out[i]), dims_of(out[i]), op_.name));
    p.call.contract = op_.contract;
    p.call.attributes = attributes_.get();
    p.call.inputs = p.inputs;
    p.call.outputs = p.outputs;
    cuda::prepare(op_, p.call);
    return p;
  }

  const cuda::Operator& op_;
  std::shared_ptr<const cuda::Attributes> attributes_;
  Fields fields_;
  Prepared now_;
  bool ready_ = false;
};

}  // namespace

IPluginV3* make_plugin(const cuda::Operator& op, const PluginFieldCollection& fields, bool serialised) {
  bool abi_seen = false;
  std::map<std::string, cuda::Value> given;
  for (std::int32_t i = 0; i < fields.nbFields; ++i) {
    const PluginField& field = fields.fields[i];
    if (std::string_view(field.name) != kAbiField) {
      // TensorRT hands over every declared field, those that the node lacks without data: they have their default.
      if (field.data != nullptr) given[field.name] = value_of(field, op.name);
      continue;
    }
    const std::int64_t found = std::get<std::int64_t>(value_of(field, op.name));
    if (found != kAbi) {
      cuda::refuse(op.name, "plugin interface of the engine", std::to_string(found), std::to_string(kAbi),
                   "build the engine again with this library");
    }
    abi_seen = true;
  }
  if (serialised && !abi_seen) {
    cuda::refuse(op.name, "plugin interface of the engine", "missing", std::to_string(kAbi),
                 "build the engine again with this library");
  }
  auto attributes = std::make_shared<const cuda::Attributes>(*op.contract, given);
  if (op.rules) op.rules(*attributes);
#if NV_TENSORRT_MAJOR > 10 || (NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR >= 3)
  const auto& outputs = op.contract->outputs;
  if (std::any_of(outputs.begin(), outputs.end(), [](const cuda::Port& p) { return p.alias >= 0; })) {
    return new Plugin<IPluginV3OneBuildV2>(op, std::move(attributes));
  }
#endif
  return new Plugin<IPluginV3OneBuild>(op, std::move(attributes));
}

}  // namespace farthing::tensorrt
