// What both memory operators launch and refuse: the spans of a bank of any storage type.
#pragma once

#include "../cuda/operator.h"
#include "kernel.cuh"

namespace farthing::cuda {

// Rows of x are T; the bank is float32, float16 or int8 with steps of T.
struct Bank {
  const Tensor* mem;
  const Tensor* step;  // null for a float bank
  std::int64_t m, c;

  std::int64_t spans() const { return ceil_div(m, kMemorySpanSlots); }
  // Floats of workspace for `rows` rows: maximum, sum and sums of every span.
  std::int64_t floats(std::int64_t rows) const { return spans() * rows * (c + 2); }
};

// The parts of the workspace of a read.
struct Partial {
  float *best, *total, *sums;
  Partial(float* base, std::int64_t spans, std::int64_t rows)
      : best(base), total(base + spans * rows), sums(base + 2 * spans * rows) {}
};

inline constexpr std::size_t kMostShared = 96 << 10;  // of a block, on every device we build for

inline void check_bank(const char* op, const Call& c, std::size_t mem, std::size_t step, std::int64_t width) {
  const bool bytes = c.type(mem) == Type::i8;
  if (bytes != c.has(step)) {
    refuse(op, "mem_scale", c.has(step) ? "given" : "missing", bytes ? "[M]" : "absent for a float bank",
           "an int8 bank has one scale a slot");
  }
  if (width > 0 && memory_shared(1, width) > kMostShared) {
    refuse(op, "C", std::to_string(width), "at most 12000 on a device", "run this model on the CPU");
  }
}

template <class T, class W>
void read_spans(const Bank& bank, const T* x, std::int64_t rows, float scale, const Partial& to, void* stream) {
  const auto* mem = static_cast<const W*>(bank.mem->data);
  const auto* step = bank.step ? static_cast<const T*>(bank.step->data) : nullptr;
  const auto spans = static_cast<unsigned>(bank.spans());
  const bool many = rows > 1 && memory_shared(kMemoryBlockRows, bank.c) <= kMostShared;
  const auto launched = [&](auto kernel, std::int64_t each) {
    launch(kernel, dim3(static_cast<unsigned>(ceil_div(rows, each)), spans), static_cast<unsigned>(kMemoryThreads),
           memory_shared(each, bank.c), stream, x, mem, step, to.best, to.total, to.sums, rows, bank.m, bank.c, scale);
  };
  many ? launched(memory_span_kernel<kMemoryBlockRows, T, W>, kMemoryBlockRows)
       : launched(memory_span_kernel<1, T, W>, 1);
}

template <class T>
void read_bank(const Bank& bank, const T* x, std::int64_t rows, float scale, const Partial& to, void* stream) {
  switch (bank.mem->type) {
    case Type::i8:
      return read_spans<T, std::int8_t>(bank, x, rows, scale, to, stream);
    case Type::f16:
      return read_spans<T, Half>(bank, x, rows, scale, to, stream);
    default:
      return read_spans<T, float>(bank, x, rows, scale, to, stream);
  }
}

}  // namespace farthing::cuda
