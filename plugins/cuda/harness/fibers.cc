// The scheduler behind harness/cuda.h: threads of a block as coroutines.
//
// A coroutine is begun by ucontext, which gives it its stack, and from then on left and entered by _setjmp and _longjmp: swapcontext asks
// the kernel for the signal mask at each switch, which took most of the time. A coroutine serves one thread after the other.
#undef _FORTIFY_SOURCE  // its longjmp takes another stack for a corrupt one
#include <setjmp.h>
#include <ucontext.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace farthing::harness {
namespace {

constexpr std::size_t kStack = 128 << 10;
constexpr unsigned kMostThreads = 1024;  // CUDA's own limit

enum class Wait { ready, block, warp, done };

struct Fiber {
  ucontext_t start;
  jmp_buf left;                            // where it gave way
  bool begun = false;                      // on its stack; never if it has to start anew
  std::unique_ptr<unsigned char[]> stack;  // pages are touched only as far as they are used
  dim3 index;
  Wait wait;
};

struct Warp {
  // Two sets of values: a lane may post for the next exchange while another still reads this one.
  std::uint64_t values[2][32];
  unsigned turn = 0;
};

struct State {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<unsigned char> shared;
  jmp_buf scheduler;
  const std::function<void()>* thread = nullptr;
  std::string error;  // of an exception, which must not cross a stack
  unsigned count = 0, current = 0;
  bool backward = false;
} state;

void give_way(Wait reason) {
  Fiber& self = state.fibers[state.current];
  self.wait = reason;
  if (_setjmp(self.left) == 0) _longjmp(state.scheduler, 1);
}

void entry() {
  for (;;) {
    try {
      (*state.thread)();
    } catch (const std::exception& error) {
      state.error = error.what();
    }
    give_way(Wait::done);
  }
}

void resume(unsigned i) {
  state.current = i;
  Fiber& fiber = state.fibers[i];
  threadIdx = fiber.index;
  if (_setjmp(state.scheduler) != 0) return;
  if (fiber.begun) _longjmp(fiber.left, 1);
  fiber.begun = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = kStack;
  fiber.start.uc_link = nullptr;  // entry never returns
  makecontext(&fiber.start, entry, 0);
  setcontext(&fiber.start);
}

// What is thrown leaves coroutines in the middle of a thread: they must not go on with it.
void forget_all() {
  for (Fiber& fiber : state.fibers) fiber.begun = false;
}

// Makes those ready whose wait is over. True if any is.
bool release() {
  bool any = false, all_at_barrier = true;
  for (unsigned first = 0; first < state.count; first += 32) {
    unsigned at_warp = 0;
    for (unsigned i = first; i < first + 32; ++i) {
      at_warp += state.fibers[i].wait == Wait::warp;
      all_at_barrier &= state.fibers[i].wait == Wait::block;
    }
    if (at_warp != 32) continue;
    for (unsigned i = first; i < first + 32; ++i) state.fibers[i].wait = Wait::ready;
    ++state.warps[first / 32].turn;
    any = true;
  }
  if (!all_at_barrier) return any;
  for (unsigned i = 0; i < state.count; ++i) state.fibers[i].wait = Wait::ready;
  return true;
}

void run_block() {
  for (unsigned i = 0; i < state.count; ++i) {
    Fiber& fiber = state.fibers[i];
    fiber.index = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y));
    fiber.wait = Wait::ready;
  }
  unsigned done = 0;
  while (done < state.count) {
    for (unsigned n = 0; n < state.count; ++n) {
      const unsigned i = state.backward ? state.count - 1 - n : n;
      if (state.fibers[i].wait == Wait::ready) resume(i);
      if (!state.error.empty()) {
        forget_all();
        throw std::runtime_error(state.error);
      }
    }
    done = 0;
    for (unsigned i = 0; i < state.count; ++i) done += state.fibers[i].wait == Wait::done;
    if (done < state.count && !release()) {
      forget_all();
      throw std::logic_error(
          std::to_string(done) + " of " + std::to_string(state.count) +
          " threads left or wait elsewhere while others wait at a barrier or warp intrinsic, expected "
          "all of them there; move the barrier out of the condition");
    }
  }
}

}  // namespace

void set_backward(bool backward) { state.backward = backward; }
void* shared_memory() { return state.shared.data(); }

void block_barrier() { give_way(Wait::block); }

const std::uint64_t* exchange(std::uint64_t bits) {
  Warp& warp = state.warps[state.current / 32];
  std::uint64_t* values = warp.values[warp.turn % 2];
  values[state.current % 32] = bits;
  give_way(Wait::warp);
  return values;
}

void run(dim3 grid, dim3 block, std::size_t shared, const std::function<void()>& thread) {
  const unsigned count = block.x * block.y * block.z;
  if (count == 0 || count > kMostThreads || count % 32 != 0 || block.x % 32 != 0) {
    throw std::logic_error("block is of " + std::to_string(count) + " threads, expected whole warps, 1024 at most");
  }
  if (state.fibers.size() < count) {
    state.fibers.resize(count);
    for (Fiber& fiber : state.fibers) {
      if (!fiber.stack) fiber.stack.reset(new unsigned char[kStack]);
    }
  }
  state.warps.assign(count / 32, Warp{});
  state.count = count;
  state.thread = &thread;
  state.error.clear();
  gridDim = grid;
  blockDim = block;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        state.shared.assign(shared + 64, 0xff);  // NaN in every floating-point type, -1 in integers
        run_block();
      }
    }
  }
}

}  // namespace farthing::harness
