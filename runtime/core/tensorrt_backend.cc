#include "tensorrt_backend.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <utility>
#include <vector>

#include "compiled.h"
#include "error.h"
#include "tensorrt_library.h"
#include "tensors.h"

namespace farthing {
namespace {

class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    // Kept for the error that follows; a library does not write to its host's terminal.
    if (severity <= Severity::kERROR) last = message;
  }
  std::string last;
};

// Memory of CUDA, freed with the function that belongs to it.
class Block {
 public:
  Block() = default;
  Block(void* data, cudaError_t (*free)(void*)) : data_(data), free_(free) {}
  Block(Block&& other) noexcept : data_(std::exchange(other.data_, nullptr)), free_(other.free_) {}
  Block& operator=(Block&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(free_, other.free_);
    return *this;
  }
  ~Block() {
    if (data_) free_(data_);
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  cudaError_t (*free_)(void*) = nullptr;
};

// A small tensor: pinned memory to fill, device memory that the engine reads.
struct Input {
  std::string name;
  Block host, device;
  std::size_t bytes = 0;  // of this pass
};

class TensorRtBackend final : public Backend {
 public:
  TensorRtBackend(const Bundle& bundle, const Compiled& compiled, const TensorRtOptions& options, const Cuda& cuda,
                  const TensorRt& tensorrt)
      : bundle_(bundle), compiled_(compiled), cuda_graphs_(options.cuda_graphs), cuda_(cuda) {
    open(tensorrt, options.plugins);
    cuda_.check(cuda_.cudaStreamCreate(&stream_), "cudaStreamCreate");
    for (const CompiledProfile& p : compiled_.profiles) {
      chunk_ = std::max(chunk_, p.most_rows);
      most_wanted_ = std::max(most_wanted_, p.most_wanted);
    }
    contexts_.resize(compiled_.profiles.size());
    const auto rows = static_cast<std::size_t>(chunk_) * sizeof(std::int64_t);
    const auto wanted = static_cast<std::size_t>(most_wanted_);
    ids_ = input(tensors::kInputIds, rows);
    positions_ = input(tensors::kPositions, rows);
    past_ = input(tensors::kPastLen, sizeof(std::int64_t));
    wanted_ = input(tensors::kLogitRows, wanted * sizeof(std::int64_t));
    const std::size_t logits = wanted * static_cast<std::size_t>(bundle.vocab_size) * sizeof(float);
    logits_host_ = pinned(logits);
    logits_device_ = device(logits);
    // Managed memory: saved states read and write the cache from the CPU. Zeros, since a masked slot must hold a number.
    cache_bytes_ =
        static_cast<std::size_t>(bundle.kv_heads * compiled_.capacity * bundle.head_dim) * bundle.cache_width;
    for (int side = 0; side < (compiled_.in_place ? 1 : 2); ++side) {
      for (std::int64_t i = 0; i < 2 * bundle.layers; ++i) caches_[side].push_back(managed(cache_bytes_));
    }
  }

  ~TensorRtBackend() override {
    if (stream_) cuda_.cudaStreamSynchronize(stream_);
    for (cudaGraphExec_t graph : graphs_) {
      if (graph) cuda_.cudaGraphExecDestroy(graph);
    }
    contexts_.clear();
    engine_.reset();
    runtime_.reset();
    if (stream_) cuda_.cudaStreamDestroy(stream_);
  }

  std::span<const float> run(const Pass& pass) override {
    const auto rows = static_cast<std::int64_t>(pass.ids.size()),
               wanted = static_cast<std::int64_t>(pass.logit_rows.size());
    if (rows == 0 || rows > chunk_ || pass.positions.size() != pass.ids.size() || wanted == 0 || wanted > rows) {
      throw Error(Status::internal, "a pass of " + std::to_string(rows) + " rows was asked for");
    }
    if (pass.past < 0 || pass.past > capacity() - rows) {
      refuse(Status::request, "context", std::to_string(pass.past) + " + " + std::to_string(rows) + " tokens",
             "at most " + std::to_string(capacity()), "compile with a longer --context");
    }
    const std::size_t profile = profile_for(rows, wanted);
    std::copy(pass.ids.begin(), pass.ids.end(), ids_.host.as<std::int64_t>());
    std::copy(pass.positions.begin(), pass.positions.end(), positions_.host.as<std::int64_t>());
    std::copy(pass.logit_rows.begin(), pass.logit_rows.end(), wanted_.host.as<std::int64_t>());
    *past_.host.as<std::int64_t>() = pass.past;
    const auto start = std::chrono::steady_clock::now();
    if (rows == 1 && cuda_graphs_) {
      replay(profile);
    } else {
      submit(profile, rows, wanted);
    }
    cuda_.check(cuda_.cudaStreamSynchronize(stream_), "the pass");
    if (!compiled_.in_place) side_ = 1 - side_;  // what was written is what the next pass reads
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return {logits_host_.as<float>(), static_cast<std::size_t>(wanted * bundle_.vocab_size)};
  }

  std::int64_t capacity() const override { return compiled_.capacity; }
  std::int64_t vocab_size() const override { return bundle_.vocab_size; }
  std::int64_t chunk() const override { return chunk_; }
  std::span<std::byte> keys(std::int64_t layer) override { return {cache(side_, 2 * layer), cache_bytes_}; }
  std::span<std::byte> values(std::int64_t layer) override { return {cache(side_, 2 * layer + 1), cache_bytes_}; }
  double engine_seconds() const override { return seconds_; }

 private:
  void open(const TensorRt& tensorrt, const std::string& plugins) {
    runtime_.reset(tensorrt.create(logger_));
    if (!runtime_) throw Error(Status::environment, "TensorRT makes no runtime: " + logger_.last);
    if (!plugins.empty() && runtime_->getPluginRegistry().loadLibrary(plugins.c_str()) == nullptr) {
      refuse(Status::environment, "plugin library " + plugins, "refused by TensorRT (" + logger_.last + ")",
             "the one the engine was compiled with", "compile and run with one build of farthing");
    }
    std::ifstream stream(compiled_.file, std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
    const std::string fix = "run farthing compile --target tensorrt on this machine";
    if (!engine_) {
      refuse(Status::bundle, compiled_.file.string(),
             "refused by TensorRT " + tensorrt.version + " (" + logger_.last + ")",
             "an engine of this version and device", fix);
    }
    const nvinfer1::Dims shape = engine_->getTensorShape((tensors::kPastK + "0").c_str());
    const std::int64_t wanted[] = {1, bundle_.kv_heads, compiled_.capacity, bundle_.head_dim};
    if (shape.nbDims != 4 || !std::equal(wanted, wanted + 4, shape.d)) {
      refuse(Status::bundle, "cache of " + compiled_.file.string(), "of another shape",
             "that of the manifest and index", fix);
    }
    const auto type = bundle_.cache_width == 1 ? nvinfer1::DataType::kINT8 : nvinfer1::DataType::kFLOAT;
    if (engine_->getTensorDataType((tensors::kPastK + "0").c_str()) != type) {
      refuse(Status::bundle, "cache of " + compiled_.file.string(), "of another dtype", "that of the manifest", fix);
    }
    if (engine_->getNbOptimizationProfiles() != static_cast<std::int32_t>(compiled_.profiles.size())) {
      refuse(Status::bundle, "profiles of " + compiled_.file.string(),
             std::to_string(engine_->getNbOptimizationProfiles()),
             std::to_string(compiled_.profiles.size()) + " as in the index", fix);
    }
  }

  // The profile for the fewest rows that takes this pass: it was tuned nearest to it.
  std::size_t profile_for(std::int64_t rows, std::int64_t wanted) const {
    const auto& all = compiled_.profiles;
    std::size_t best = all.size();
    for (std::size_t i = 0; i < all.size(); ++i) {
      const CompiledProfile& p = all[i];
      const bool takes =
          p.least_rows <= rows && rows <= p.most_rows && p.least_wanted <= wanted && wanted <= p.most_wanted;
      if (takes && (best == all.size() || p.most_rows < all[best].most_rows)) best = i;
    }
    if (best == all.size()) {
      refuse(Status::bundle, "pass", std::to_string(rows) + " rows with logits of " + std::to_string(wanted),
             "one that a profile of " + compiled_.folder.string() + " takes", "compile with another --tree or --chunk");
    }
    return best;
  }

  nvinfer1::IExecutionContext& context(std::size_t profile) {
    auto& made = contexts_[profile];
    if (!made) {
      made.reset(engine_->createExecutionContext());
      if (!made || !made->setOptimizationProfileAsync(static_cast<std::int32_t>(profile), stream_)) {
        throw Error(Status::internal, "TensorRT makes no context: " + logger_.last);
      }
      cuda_.check(cuda_.cudaStreamSynchronize(stream_), "setOptimizationProfileAsync");
    }
    return *made;
  }

  // Puts one pass on the stream: inputs, engine, logits.
  void submit(std::size_t profile, std::int64_t rows, std::int64_t wanted) {
    nvinfer1::IExecutionContext& c = context(profile);
    const auto width = sizeof(std::int64_t);
    place(c, ids_, {2, {1, rows}}, static_cast<std::size_t>(rows) * width);
    place(c, positions_, {2, {1, rows}}, static_cast<std::size_t>(rows) * width);
    place(c, past_, {1, {1}}, width);
    place(c, wanted_, {2, {1, wanted}}, static_cast<std::size_t>(wanted) * width);
    address(c, tensors::kLogits, logits_device_.as<void>());
    const int out = compiled_.in_place ? side_ : 1 - side_;
    for (std::int64_t layer = 0; layer < bundle_.layers; ++layer) {
      const std::string number = std::to_string(layer);
      address(c, tensors::kPastK + number, cache(side_, 2 * layer));
      address(c, tensors::kPastV + number, cache(side_, 2 * layer + 1));
      address(c, tensors::kPresentK + number, cache(out, 2 * layer));
      address(c, tensors::kPresentV + number, cache(out, 2 * layer + 1));
    }
    if (!c.enqueueV3(stream_)) throw Error(Status::internal, "TensorRT stopped: " + logger_.last);
    const auto bytes = static_cast<std::size_t>(wanted * bundle_.vocab_size) * sizeof(float);
    cuda_.check(cuda_.cudaMemcpyAsync(logits_host_.as<void>(), logits_device_.as<void>(), bytes, cudaMemcpyDeviceToHost,
                                      stream_),
                "copying logits");
  }

  // The pass of one row as a CUDA graph: its buffers never move, only what is in them changes. With two cache sets there are
  // two graphs. The first pass is a plain one (TensorRT may still set itself up), the second is captured.
  void replay(std::size_t profile) {
    cudaGraphExec_t& graph = graphs_[side_];
    if (!graph && plain_[side_]) {
      cudaGraph_t captured = nullptr;
      cuda_.check(cuda_.cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
      try {
        submit(profile, 1, 1);
      } catch (const Error&) {
        cuda_.cudaStreamEndCapture(stream_, &captured);  // leave the stream usable
        throw;
      }
      cuda_.check(cuda_.cudaStreamEndCapture(stream_, &captured), "cudaStreamEndCapture");
      const cudaError_t status = cuda_.cudaGraphInstantiate(&graph, captured, 0);
      cuda_.cudaGraphDestroy(captured);
      cuda_.check(status, "cudaGraphInstantiate");
    }
    if (graph) {
      cuda_.check(cuda_.cudaGraphLaunch(graph, stream_), "cudaGraphLaunch");
    } else {
      submit(profile, 1, 1);
      plain_[side_] = true;
    }
  }

  void place(nvinfer1::IExecutionContext& c, Input& input, const nvinfer1::Dims& shape, std::size_t bytes) {
    if (!c.setInputShape(input.name.c_str(), shape)) {
      throw Error(Status::internal, "TensorRT takes no such shape of " + input.name + ": " + logger_.last);
    }
    address(c, input.name, input.device.as<void>());
    cuda_.check(
        cuda_.cudaMemcpyAsync(input.device.as<void>(), input.host.as<void>(), bytes, cudaMemcpyHostToDevice, stream_),
        "copying inputs");
  }

  void address(nvinfer1::IExecutionContext& c, const std::string& name, void* data) {
    if (!c.setTensorAddress(name.c_str(), data)) {
      throw Error(Status::bundle, "engine " + compiled_.file.string() + " has no tensor " + name + ": " + logger_.last);
    }
  }

  std::byte* cache(int side, std::int64_t index) {
    return caches_[side][static_cast<std::size_t>(index)].as<std::byte>();
  }

  Input input(const std::string& name, std::size_t bytes) { return {name, pinned(bytes), device(bytes), 0}; }
  Block pinned(std::size_t bytes) {
    void* data = nullptr;
    cuda_.check(cuda_.cudaMallocHost(&data, bytes), "cudaMallocHost");
    return {data, cuda_.cudaFreeHost};
  }
  Block device(std::size_t bytes) {
    void* data = nullptr;
    cuda_.check(cuda_.cudaMalloc(&data, bytes), "cudaMalloc");
    return {data, cuda_.cudaFree};
  }
  Block managed(std::size_t bytes) {
    void* data = nullptr;
    cuda_.check(cuda_.cudaMallocManaged(&data, bytes, cudaMemAttachGlobal), "cudaMallocManaged");
    Block block(data, cuda_.cudaFree);
    cuda_.check(cuda_.cudaMemset(data, 0, bytes), "cudaMemset");
    return block;
  }

  Bundle bundle_;
  Compiled compiled_;
  bool cuda_graphs_;
  const Cuda& cuda_;
  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::vector<std::unique_ptr<nvinfer1::IExecutionContext>> contexts_;  // one per profile, made when first used
  cudaStream_t stream_ = nullptr;
  Input ids_, positions_, past_, wanted_;
  Block logits_host_, logits_device_;
  std::vector<Block> caches_[2];  // of each side: k, v of layer 0, k, v of layer 1, ...
  std::size_t cache_bytes_ = 0;   // of one of them
  int side_ = 0;                  // the side that holds the sequence
  cudaGraphExec_t graphs_[2] = {nullptr, nullptr};
  bool plain_[2] = {false, false};
  std::int64_t chunk_ = 1, most_wanted_ = 1;
  double seconds_ = 0;
};

}  // namespace

std::unique_ptr<Backend> open_tensorrt_backend(const Bundle& bundle, const TensorRtOptions& given) {
  if (bundle.recurrent()) {
    refuse(Status::request, "backend for " + bundle.path.string(), "tensorrt",
           "onnxruntime for a model with a recurrent state", "open it without the TensorRT backend");
  }
  TensorRtOptions options = given;
  if (const char* named = std::getenv("FARTHING_PLUGINS"); options.plugins.empty() && named) options.plugins = named;
  const Cuda& cuda = load_cuda(options.cudart);
  const std::int64_t sm = need_device(cuda);
  const TensorRt& tensorrt = load_tensorrt(options.tensorrt);
  Machine machine{tensorrt.version, sm, std::nullopt, options.capacity};
  if (!options.plugins.empty()) machine.plugin_abi = plugin_abi_of(options.plugins);
  const std::vector<Compiled> all = list_compiled(bundle, "tensorrt");
  const Compiled& chosen = choose_compiled(all, bundle, machine);
  if (options.hashes) check_compiled(chosen);
  return std::make_unique<TensorRtBackend>(bundle, chosen, options, cuda, tensorrt);
}

std::string tensorrt_headers() { return std::to_string(NV_TENSORRT_MAJOR) + "." + std::to_string(NV_TENSORRT_MINOR); }

}  // namespace farthing
