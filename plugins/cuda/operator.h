// The device half of an operator, as TensorRT's plugin and the CPU harness call it. An operator's launch.cu defines
//
//   struct X {
//     static constexpr const char* kName = "X";
//     static void run(const Call& call);                      // launches kernels; throws to refuse
//     static void rules(const Attributes&);                   // optional: attributes that do not fit each other; throws
//     static void check(const Call& call);                    // optional: shapes that the contract's symbols cannot refuse
//     static std::size_t workspace(const Call& call);         // optional: bytes
//     static bool supports(std::span<const Type> types);      // optional: narrows the types that the contract allows
//   };
//   Registered<X> registered;
//
// and that is all: ports, attributes, symbolic shapes and types come from operator.py (see contract.h).
#pragma once

#include "contract.h"

namespace farthing::cuda {

// One call: tensors, sizes of the symbols, attributes.
struct Call {
  const Contract* contract;
  const Attributes* attributes;
  Sizes sizes;
  std::span<const Tensor> inputs, outputs;
  void* workspace = nullptr;
  void* stream = nullptr;  // cudaStream_t

  std::int64_t size(std::string_view symbol) const { return sizes.named.find(symbol)->second; }
  // The product of the leading sizes, `...`.
  std::int64_t rows() const {
    std::int64_t count = 1;
    for (std::int64_t n : sizes.leading) count *= n;
    return count;
  }
  bool has(std::size_t input) const { return input < inputs.size() && inputs[input].present; }
  template <class T>
  const T* in(std::size_t i) const {
    return has(i) ? static_cast<const T*>(inputs[i].data) : nullptr;
  }
  template <class T>
  T* out(std::size_t i) const {
    return static_cast<T*>(outputs[i].data);
  }
  Type type(std::size_t input) const { return inputs[input].type; }
};

struct Operator {
  const char* name = nullptr;
  void (*run)(const Call&) = nullptr;
  void (*rules)(const Attributes&) = nullptr;
  void (*check)(const Call&) = nullptr;
  std::size_t (*workspace)(const Call&) = nullptr;
  bool (*supports)(std::span<const Type>) = nullptr;
  const Contract* contract = nullptr;
};

// All registered operators, with their contracts, by name.
const std::vector<Operator>& operators();
std::vector<Operator>& registrations();

// Sizes and rules of a call, checked in the order of every face: attributes, symbols, the operator's own.
void prepare(const Operator& op, Call& call);

template <class Op>
struct Registered {
  Registered() {
    Operator entry;
    entry.name = Op::kName;
    entry.run = &Op::run;
    if constexpr (requires { &Op::rules; }) entry.rules = &Op::rules;
    if constexpr (requires { &Op::check; }) entry.check = &Op::check;
    if constexpr (requires { &Op::workspace; }) entry.workspace = &Op::workspace;
    if constexpr (requires { &Op::supports; }) entry.supports = &Op::supports;
    registrations().push_back(entry);
  }
};

}  // namespace farthing::cuda
