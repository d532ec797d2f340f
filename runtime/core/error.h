// Errors of the core: one class, a code that says who can act on it, one sentence form.
#pragma once

#include <stdexcept>
#include <string>

namespace farthing {

// The values are those of farthing_status in farthing.h, and of the exit codes of the command line.
enum class Status {
  internal = 1,     // a defect of ours, or of ONNX Runtime
  request = 2,      // the caller asked for something impossible
  bundle = 4,       // the bundle is damaged, edited, from the future, or does not fit the request
  environment = 6,  // a library is missing or too old
};

class Error : public std::runtime_error {
 public:
  Error(Status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  Status status() const { return status_; }

 private:
  Status status_;
};

// Throws "<what> is <found>, expected <wanted>; <fix>".
[[noreturn]] inline void refuse(Status status, const std::string& what, const std::string& found,
                                const std::string& wanted, const std::string& fix) {
  throw Error(status, what + " is " + found + ", expected " + wanted + "; " + fix);
}

}  // namespace farthing
