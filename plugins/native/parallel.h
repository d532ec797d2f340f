// How a kernel asks for threads without knowing who owns them (ONNX Runtime's pool, a test's loop).
#pragma once

#include <cstddef>

namespace farthing {

// Runs fn(data, i) for i in [0, count), in any order, possibly at once, and returns when all are done.
struct Parallel {
  void* owner;
  void (*run)(void* owner, void (*fn)(void* data, std::size_t i), std::size_t count, void* data);

  template <class F>
  void operator()(std::size_t count, F&& f) const {
    if (count == 1) {
      f(std::size_t{0});
      return;
    }
    run(
        owner, [](void* data, std::size_t i) { (*static_cast<F*>(data))(i); }, count,
        const_cast<void*>(static_cast<const void*>(&f)));
  }
};

}  // namespace farthing
