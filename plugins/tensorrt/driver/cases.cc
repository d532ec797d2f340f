#include "cases.h"

#include <sstream>
#include <stdexcept>

namespace farthing::driver {
namespace {

TensorCase read_tensor(std::istringstream& words) {
  TensorCase t;
  int type = 0;
  std::string allowed, dims, item;
  words >> type >> allowed >> dims;
  t.type = static_cast<nvinfer1::DataType>(type);
  for (std::istringstream list(allowed); std::getline(list, item, ',');) t.allowed.insert(std::stoi(item));
  t.known = dims != "?";
  if (t.known && dims != "-") {
    for (std::istringstream list(dims); std::getline(list, item, ',');) t.dims.d[t.dims.nbDims++] = std::stoll(item);
  }
  return t;
}

}  // namespace

bool read(std::istream& in, Case& out) {
  out = Case{};
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string what;
    words >> what;
    if (what == "case") {
      words >> out.name >> out.op;
    } else if (what == "attribute") {
      AttributeCase a;
      words >> a.kind >> a.name >> a.text;
      if (a.kind == "int") a.integer = std::stoi(a.text);
      if (a.kind == "float") a.real = std::stof(a.text);
      out.attributes.push_back(a);
    } else if (what == "tensor") {
      std::string side;
      words >> side;
      (side == "in" ? out.inputs : out.outputs).push_back(read_tensor(words));
    } else if (what == "alias") {
      int output = 0, input = 0;
      words >> output >> input;
      out.alias[output] = input;
    } else if (what == "end") {
      return true;
    } else if (!what.empty()) {
      throw std::runtime_error("line is '" + line + "', expected case, attribute, tensor, alias or end");
    }
  }
  return false;
}

}  // namespace farthing::driver
