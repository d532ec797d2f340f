// A graph in ONNX Runtime with named ports, and runs of it whose bindings are kept.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "ort_backend.h"
#include "ort_library.h"

namespace farthing::drawing {

// An input or output as the graph declares it; -1 for sizes that it leaves open.
struct Port {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  std::vector<std::int64_t> shape;
};

template <class T>
constexpr ONNXTensorElementDataType type_of() {
  return Ort::TypeToTensorType<T>::type;
}

// What a run reads and writes: views of buffers that stay where they are, so that runs of one key need to be bound only once.
class Binder {
 public:
  explicit Binder(Ort::Session& session, const Ort::MemoryInfo& memory) : binding_(session), memory_(memory) {}
  template <class T>
  void in(const std::string& name, T* data, std::initializer_list<std::int64_t> shape) {
    binding_.BindInput(name.c_str(), view(data, shape));
  }
  template <class T>
  void out(const std::string& name, T* data, std::initializer_list<std::int64_t> shape) {
    binding_.BindOutput(name.c_str(), view(data, shape));
  }
  Ort::IoBinding& binding() { return binding_; }

 private:
  template <class T>
  Ort::Value& view(T* data, std::initializer_list<std::int64_t> shape) {
    std::size_t count = 1;
    for (const std::int64_t size : shape) count *= static_cast<std::size_t>(size);
    return values_.emplace_back(Ort::Value::CreateTensor<T>(memory_, data, count, shape.begin(), shape.size()));
  }

  Ort::IoBinding binding_;
  const Ort::MemoryInfo& memory_;
  std::deque<Ort::Value> values_;
};

// How much a graph has to do. `steady`: most of all, its threads wait for the next run by spinning. `seldom`: they sleep, so that they take
// no core from the others. `small`: one thread does it, as with the graphs that choose codes.
enum class Work { steady, seldom, small };

class Graph {
 public:
  using Key = std::array<std::int64_t, 4>;
  // Throws Error(bundle).
  Graph(const std::filesystem::path& path, const OrtOptions& options, Work work);

  // Throws Error(bundle) unless there is such an input or output with these sizes; -1 = any. Returns the sizes as declared.
  const std::vector<std::int64_t>& need_input(const std::string& name, ONNXTensorElementDataType type,
                                              std::initializer_list<std::int64_t> shape);
  const std::vector<std::int64_t>& need_output(const std::string& name, ONNXTensorElementDataType type,
                                               std::initializer_list<std::int64_t> shape);
  // Throws Error(bundle) for an input that was never needed: it could not be fed.
  void no_other_inputs() const;
  bool has_output(const std::string& name) const { return outputs_.contains(name); }

  // `bind(Binder&)` says where everything lies, and is asked again only for a key that was not run lately or after forget().
  // Throws Error(internal).
  template <class Bind>
  void run(const Key& key, const Bind& bind) {
    for (Bound& each : bound_) {
      if (each.key == key) return execute(each.binder);
    }
    if (bound_.size() == kMostBound) bound_.pop_front();
    Bound& made = bound_.emplace_back(key, session_, memory_);
    bind(made.binder);
    execute(made.binder);
  }
  // Buffers have moved.
  void forget() { bound_.clear(); }
  double seconds() const { return seconds_; }

 private:
  // Sizes of passes that come again and again: those of a diagonal's way there and back, those of a window of drafts.
  static constexpr std::size_t kMostBound = 128;
  struct Bound {
    Bound(const Key& which, Ort::Session& session, const Ort::MemoryInfo& memory)
        : key(which), binder(session, memory) {}
    Key key;
    Binder binder;
  };

  const std::vector<std::int64_t>& need(const std::map<std::string, Port>& ports, const char* kind,
                                        const std::string& name, ONNXTensorElementDataType type,
                                        std::initializer_list<std::int64_t> shape) const;
  void execute(Binder& binder);

  std::string path_;
  Ort::MemoryInfo memory_;
  Ort::Session session_;
  Ort::RunOptions run_options_;
  std::map<std::string, Port> inputs_, outputs_;
  std::vector<std::string> needed_;
  std::deque<Bound> bound_;
  double seconds_ = 0;
};

}  // namespace farthing::drawing
