// Where the scratch memory of TokenSelect goes. Included by kernel.cc alone, once per instruction set.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace farthing {
namespace FARTHING_ISA {
namespace {

constexpr std::size_t kWindow = 48;

// Candidates that are brought up to date together. Half of a 1 MiB L2 holds their rows; a multiple of every kDotRows.
inline std::size_t select_window(std::size_t dim) {
  const std::size_t fitting = (std::size_t{512} << 10) / (4 * std::max<std::size_t>(dim, 1));
  return std::clamp<std::size_t>(fitting / 6 * 6, 12, kWindow);
}

// A candidate in the order of preference: its objective as an ordered integer, then the lower token.
struct Key {
  std::uint64_t rank;
  std::uint32_t slot;
};

// Pointers into one block, each aligned to 64 bytes. With base = nullptr the addresses are offsets and `end` is the size.
struct SelectLayout {
  // Of all tokens, ordered by pool.
  std::int32_t* member;  // tokens, pool by pool
  std::size_t* start;    // [groups + 2]
  std::size_t* taken;    // [groups + 1] heads of the pools' sequences
  std::size_t* length;   // [groups + 1]
  float* chosen_value;   // [n] objective of every pick, at its pool's start
  std::int32_t* chosen;  // [n] the picks
  Key* key;              // [n]
  // Of the pool at work.
  float *gain, *nearest, *scale;  // [n + 16]
  float* bound;                   // [n + 16]
  std::int32_t *token, *seen;     // [n]
  float* picked;                  // [k, stride] unit rows of the picks
  float* window;                  // [window, stride] unit rows of the candidates at hand
  float* gram;                    // [window, window + 8]
  float* window_state;            // [4, window + 16]
  std::byte* end;

  SelectLayout(std::byte* base, std::size_t n, std::size_t dim, std::size_t groups, std::size_t k, bool similar)
      : end(base) {
    take(member, n);
    take(start, groups + 2);
    take(taken, groups + 1);
    take(length, groups + 1);
    take(chosen_value, n);
    take(chosen, n);
    take(key, n);
    if (!similar) return;
    const std::size_t stride = (dim + 15) / 16 * 16 + 16, window_rows = select_window(dim);
    take(gain, n + 16);
    take(nearest, n + 16);
    take(scale, n + 16);
    take(bound, n + 16);
    take(token, n);
    take(seen, n);
    take(picked, k * stride);
    take(window, window_rows * stride);
    take(gram, window_rows * (window_rows + 8));
    take(window_state, 4 * (window_rows + 16));
  }

 private:
  template <class T>
  void take(T*& pointer, std::size_t count) {
    pointer = reinterpret_cast<T*>(end);
    end = reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(end) + count * sizeof(T) + 63) &
                                       ~std::uintptr_t{63});
  }
};

}  // namespace
}  // namespace FARTHING_ISA
}  // namespace farthing
