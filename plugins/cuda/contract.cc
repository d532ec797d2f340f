#include "contract.h"

#include <algorithm>
#include <cctype>

namespace farthing::cuda {

const std::vector<Contract>& contracts() {
  static const std::vector<Contract> table = {
#include "contracts.inc"
  };
  return table;
}

const char* name_of(Type type) {
  static constexpr const char* kNames[] = {"float32", "float16", "int8", "int32", "int64", "bool"};
  return kNames[static_cast<int>(type)];
}

std::string shape_of(const Tensor& tensor) {
  std::string text = "[";
  for (int i = 0; i < tensor.rank; ++i) text += (i ? "," : "") + std::to_string(tensor.dims[i]);
  return text + "]";
}

void refuse(const std::string& op, const std::string& what, const std::string& found, const std::string& wanted,
            const std::string& fix) {
  throw std::invalid_argument(op + ": " + what + " is " + found + ", expected " + wanted + "; " + fix);
}

Attributes::Attributes(const Contract& contract, const std::map<std::string, Value>& given) {
  static constexpr const char* kKinds[] = {"an int", "a float", "a string"};
  for (const AttributeSpec& spec : contract.attributes) {
    const auto found = given.find(spec.name);
    const std::string what = "attribute " + spec.name;
    if (found == given.end()) {
      if (spec.required)
        refuse(contract.name, what, "missing", kKinds[spec.value.index()], "set it, it has no default");
      values_[spec.name] = spec.value;
      continue;
    }
    if (found->second.index() != spec.value.index()) {
      refuse(contract.name, what, kKinds[found->second.index()], kKinds[spec.value.index()], "correct the node");
    }
    if (const auto* text = std::get_if<std::string>(&found->second); text && !spec.choices.empty()) {
      if (std::find(spec.choices.begin(), spec.choices.end(), *text) == spec.choices.end()) {
        std::string choices;
        for (const std::string& choice : spec.choices) choices += (choices.empty() ? "" : ", ") + choice;
        refuse(contract.name, what, "'" + *text + "'", "one of " + choices, "correct the node");
      }
    }
    values_[spec.name] = found->second;
  }
  for (const auto& [name, value] : given) {
    if (!values_.contains(name)) refuse(contract.name, "attribute", "'" + name + "'", "one it knows", "remove it");
  }
}

bool is_symbol(std::string_view text) {
  return !text.empty() && !std::isdigit(static_cast<unsigned char>(text[0])) &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isalnum(c) || c == '_'; });
}

std::pair<std::int64_t, std::string> simple_product(std::string_view formula) {
  const std::size_t star = formula.find('*');
  if (star == std::string_view::npos || star == 0) return {0, ""};
  const std::string_view factor = formula.substr(0, star), symbol = formula.substr(star + 1);
  if (!std::all_of(factor.begin(), factor.end(), [](unsigned char c) { return std::isdigit(c); })) return {0, ""};
  if (!is_symbol(symbol)) return {0, ""};
  return {std::stoll(std::string(factor)), std::string(symbol)};
}

namespace {

struct Numbers {
  using Value = std::int64_t;
  const Sizes& sizes;
  bool known = true;  // false once a symbol without a size was met
  Value constant(std::int64_t value) { return value; }
  Value symbol(std::string_view name) {
    const auto found = sizes.named.find(name);
    if (found == sizes.named.end() || found->second < 0) {
      known = false;
      return 1;
    }
    return found->second;
  }
  Value apply(char op, Value a, Value b) {
    if (op == '+') return a + b;
    if (op == '-') return a - b;
    if (op == '*') return a * b;
    return b == 0 ? 0 : a / b;
  }
};

std::string symbols_of(const Port& port) {
  std::string text = "[";
  for (std::size_t i = 0; i < port.shape.size(); ++i) text += (i ? "," : "") + port.shape[i];
  return text + "]";
}

// True when the two agree, or one of them is not known yet; `known` takes the number.
bool unify(std::int64_t& known, std::int64_t size) {
  if (known < 0) known = size;
  return size < 0 || known == size;
}

struct Later {
  const Port* port;
  std::string formula, found;
  std::int64_t size;
};

void bind(const std::string& op, const Port& port, const Tensor& tensor, Sizes& sizes, std::vector<Later>& later) {
  const std::string found = shape_of(tensor), wanted = symbols_of(port);
  const auto ellipsis = std::find(port.shape.begin(), port.shape.end(), "...");
  const int fixed = static_cast<int>(port.shape.size()) - (ellipsis != port.shape.end() ? 1 : 0);
  const int spare = tensor.rank - fixed;
  if (ellipsis == port.shape.end() ? spare != 0 : spare < 0) refuse(op, port.name, found, wanted, "check its rank");
  int axis = 0;
  for (const std::string& symbol : port.shape) {
    if (symbol == "...") {
      const std::vector<std::int64_t> leading(tensor.dims + axis, tensor.dims + axis + spare);
      if (!sizes.has_leading) {
        sizes.leading = leading;
        sizes.has_leading = true;
      }
      bool same = sizes.leading.size() == leading.size();
      for (std::size_t i = 0; same && i < leading.size(); ++i) same = unify(sizes.leading[i], leading[i]);
      if (!same) refuse(op, port.name, found, wanted + " with other leading dimensions", "check what is connected");
      axis += spare;
      continue;
    }
    const std::int64_t size = tensor.dims[axis++];
    if (!is_symbol(symbol)) {
      later.push_back({&port, symbol, found, size});
    } else if (auto& known = sizes.named.try_emplace(symbol, -1).first->second; !unify(known, size)) {
      refuse(op, port.name, found, wanted + " with " + symbol + " = " + std::to_string(known),
             "check what is connected");
    }
  }
}

}  // namespace

Sizes conform(const Contract& contract, const Attributes& attributes, std::span<const Tensor> inputs) {
  Sizes sizes;
  for (const auto& [name, value] : attributes.all()) {
    if (const auto* number = std::get_if<std::int64_t>(&value)) sizes.named[name] = *number;
  }
  for (const auto& [symbol, name] : contract.symbols) sizes.named[symbol] = attributes.integer(name.c_str());
  std::vector<Later> later;
  for (std::size_t i = 0; i < contract.inputs.size(); ++i) {
    const Port& port = contract.inputs[i];
    if (i < inputs.size() && inputs[i].present) {
      bind(contract.name, port, inputs[i], sizes, later);
    } else if (!port.optional) {
      refuse(contract.name, port.name, "absent", "a tensor " + symbols_of(port), "connect it");
    }
  }
  for (const Later& dim : later) {
    if (dim.size < 0) continue;
    Numbers numbers{sizes};
    std::int64_t wanted = evaluate(std::string_view(dim.formula), numbers);
    std::string words = dim.formula + " = " + std::to_string(wanted);
    if (!numbers.known) {
      wanted = dim.size;
      if (const auto [factor, symbol] = simple_product(dim.formula); factor > 0) {
        if (dim.size % factor) {
          wanted = -1;
          words = dim.formula + " = a multiple of " + std::to_string(factor);
        }
        sizes.named[symbol] = dim.size / factor;
      }
    }
    if (wanted != dim.size) {
      refuse(contract.name, dim.port->name, dim.found, words + " in " + symbols_of(*dim.port),
             "check what is connected");
    }
  }
  return sizes;
}

namespace {

const Port& port_at(const Contract& contract, std::size_t inputs, std::size_t position) {
  return position < inputs ? contract.inputs[position] : contract.outputs[position - inputs];
}

}  // namespace

std::string type_fits(const Contract& contract, std::span<const Type> types, std::size_t inputs, std::size_t position) {
  const Port& port = port_at(contract, inputs, position);
  const Type found = types[position];
  const auto wrong = [&](const std::string& wanted) {
    return contract.name + ": dtype of " + port.name + " is " + name_of(found) + ", expected " + wanted + "; cast it";
  };
  if (port.like >= 0) {
    const Type wanted = types[static_cast<std::size_t>(port.like)];
    return found == wanted ? "" : wrong(std::string("that of its pattern, ") + name_of(wanted));
  }
  if (port.follows()) {
    for (std::size_t i = 0; i < position; ++i) {
      if (!port_at(contract, inputs, i).follows()) continue;
      return found == types[i] ? "" : wrong(name_of(types[i]));
    }
    const bool free = position < inputs;  // an output that follows nothing stays float32
    return found == Type::f32 || (free && found == Type::f16) ? "" : wrong(free ? "float32 or float16" : "float32");
  }
  if (std::find(port.types.begin(), port.types.end(), found) != port.types.end()) return "";
  std::string wanted;
  for (Type type : port.types) wanted += (wanted.empty() ? "" : " or ") + std::string(name_of(type));
  return wrong(wanted);
}

Type output_type(const Contract& contract, std::span<const Type> inputs, std::size_t output) {
  const Port& port = contract.outputs[output];
  if (port.like >= 0) return inputs[static_cast<std::size_t>(port.like)];
  if (port.follows()) {
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (contract.inputs[i].follows()) return inputs[i];
    }
  }
  return port.types[0];
}

}  // namespace farthing::cuda
