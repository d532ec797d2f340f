#include "operator.h"

#include <algorithm>

namespace farthing::cuda {

std::vector<Operator>& registrations() {
  static std::vector<Operator> table;
  return table;
}

const std::vector<Operator>& operators() {
  static const std::vector<Operator> table = [] {
    std::vector<Operator> found = registrations();
    std::sort(found.begin(), found.end(),
              [](const Operator& a, const Operator& b) { return std::string(a.name) < b.name; });
    for (Operator& op : found) {
      for (const Contract& contract : contracts()) {
        if (contract.name == op.name) op.contract = &contract;
      }
      if (!op.contract) throw std::logic_error(std::string("operator ") + op.name + " has no contract in operator.py");
    }
    return found;
  }();
  return table;
}

void prepare(const Operator& op, Call& call) {
  if (op.rules) op.rules(*call.attributes);
  call.sizes = conform(*op.contract, *call.attributes, call.inputs);
  if (op.check) op.check(call);
}

}  // namespace farthing::cuda
