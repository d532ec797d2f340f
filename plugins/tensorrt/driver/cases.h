// What the driver is asked on its standard input, one case after another:
//   case NAME OPERATOR
//   attribute KIND NAME VALUE          KIND: int, float, string
//   tensor in|out TYPE ALLOWED DIMS    TYPE: number of nvinfer1::DataType; ALLOWED: such numbers with commas; DIMS: 2,3,4, or ? when
//                                      not known, or - for a scalar
//   alias OUTPUT INPUT
//   end
#pragma once

#include <NvInferRuntime.h>

#include <istream>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace farthing::driver {

struct TensorCase {
  nvinfer1::DataType type;
  std::set<int> allowed;
  nvinfer1::Dims dims{};
  bool known = true;
};

struct AttributeCase {
  std::string kind, name, text;
  std::int32_t integer = 0;
  float real = 0;
};

struct Case {
  std::string name, op;
  std::vector<AttributeCase> attributes;
  std::vector<TensorCase> inputs, outputs;
  std::map<int, int> alias;
};

// Reads one case; false at the end of input. Throws std::runtime_error on a line it does not know.
bool read(std::istream& in, Case& out);

}  // namespace farthing::driver
