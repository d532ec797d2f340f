// The contracts of plugins/*/operator.py as C++ data, and what follows from them alone: do these tensors fit, what are the
// sizes of the symbols, what are the types and shapes of the outputs. Free of CUDA and of TensorRT.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace farthing::cuda {

enum class Type : std::int32_t { f32, f16, i8, i32, i64, b8 };  // the numbers are part of the harness's C interface
const char* name_of(Type type);                                 // "float16"

inline constexpr int kMaxRank = 8;

// A tensor on the device (in the harness: in memory). `present` is false for an optional one that is absent; data is null as
// long as only shapes are known. The layout is part of the harness's C interface.
struct Tensor {
  void* data = nullptr;
  Type type = Type::f32;
  std::int32_t rank = 0;
  std::int64_t present = 0;
  std::int64_t dims[kMaxRank] = {};  // -1: not known yet
};
std::string shape_of(const Tensor& tensor);  // "[2,3,64]"

struct Port {
  std::string name;
  std::vector<std::string> shape;  // symbols, see contract.py
  std::vector<Type> types;
  bool optional;
  int like, alias;  // index of an input, or -1

  // A port of float32 alone is float16 on the device when its neighbours are: all such ports have one type.
  bool follows() const { return types.size() == 1 && types[0] == Type::f32; }
};

using Value = std::variant<std::int64_t, float, std::string>;

struct AttributeSpec {
  std::string name;
  Value value;  // the default; for a required one only the kind counts
  bool required;
  std::vector<std::string> choices;
};

struct Contract {
  std::string name;
  std::vector<Port> inputs, outputs;
  std::vector<AttributeSpec> attributes;
  std::vector<std::pair<std::string, std::string>> symbols;  // symbol of a shape -> attribute
};

const std::vector<Contract>& contracts();

// "<operator>: <what> is <found>, expected <wanted>; <fix>"
[[noreturn]] void refuse(const std::string& op, const std::string& what, const std::string& found,
                         const std::string& wanted, const std::string& fix);

// Values of all attributes, complete and of the right kind.
class Attributes {
 public:
  // `given` completed by defaults. Throws for one that is missing, unknown, of another kind or not among the choices.
  Attributes(const Contract& contract, const std::map<std::string, Value>& given);
  std::int64_t integer(const char* name) const { return std::get<std::int64_t>(values_.at(name)); }
  float real(const char* name) const { return std::get<float>(values_.at(name)); }
  const std::string& text(const char* name) const { return std::get<std::string>(values_.at(name)); }
  const std::map<std::string, Value, std::less<>>& all() const { return values_; }

 private:
  std::map<std::string, Value, std::less<>> values_;
};

// Sizes of the symbols; `leading` is what `...` stands for.
struct Sizes {
  std::map<std::string, std::int64_t, std::less<>> named;
  std::vector<std::int64_t> leading;
  bool has_leading = false;
};

// Checks ranks and sizes of the inputs, as conform.py does and in its words. Sizes of -1 fit anything. Throws
// std::invalid_argument.
Sizes conform(const Contract& contract, const Attributes& attributes, std::span<const Tensor> inputs);

// Does the type at `position` (inputs, then outputs) fit those before it? Empty when it does, else what is wrong.
std::string type_fits(const Contract& contract, std::span<const Type> types, std::size_t inputs, std::size_t position);
Type output_type(const Contract& contract, std::span<const Type> inputs, std::size_t output);

// Evaluates "2*F" or "(H+2*Hkv)*dh" in an algebra with Value constant(int64), Value symbol(string_view) and
// Value apply(char, Value, Value); operators are + - * and / (floor).
template <class Algebra>
typename Algebra::Value evaluate(std::string_view formula, Algebra& algebra);

// What `factor*symbol` says when only the product is known: {factor, symbol}, or {0, ""} for any other formula.
std::pair<std::int64_t, std::string> simple_product(std::string_view formula);
bool is_symbol(std::string_view text);

namespace detail {

template <class Algebra>
struct Parser {
  std::string_view text;
  Algebra& algebra;
  std::size_t at = 0;
  using Value = typename Algebra::Value;

  Value sum() {
    Value left = product();
    while (at < text.size() && (text[at] == '+' || text[at] == '-')) {
      const char op = text[at++];
      left = algebra.apply(op, left, product());
    }
    return left;
  }
  Value product() {
    Value left = factor();
    while (at < text.size() && (text[at] == '*' || text[at] == '/')) {
      const char op = text[at++];
      left = algebra.apply(op, left, factor());
    }
    return left;
  }
  Value factor() {
    if (at < text.size() && text[at] == '(') {
      ++at;
      Value inner = sum();
      ++at;  // the closing parenthesis
      return inner;
    }
    const std::size_t begin = at;
    while (at < text.size() && (std::string_view("+-*/()").find(text[at]) == std::string_view::npos)) ++at;
    const std::string_view token = text.substr(begin, at - begin);
    if (token.empty())
      throw std::invalid_argument("formula is '" + std::string(text) + "', expected sums and products");
    if (token[0] >= '0' && token[0] <= '9') return algebra.constant(std::stoll(std::string(token)));
    return algebra.symbol(token);
  }
};

}  // namespace detail

template <class Algebra>
typename Algebra::Value evaluate(std::string_view formula, Algebra& algebra) {
  detail::Parser<Algebra> parser{formula, algebra};
  return parser.sum();
}

}  // namespace farthing::cuda
