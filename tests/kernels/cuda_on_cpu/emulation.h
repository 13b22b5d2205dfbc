// Runs the GPU's kernels on a CPU, one block of threads after another, to test their logic.
//
// Each thread of a block is a fibre with its own stack. A fibre runs until it meets a barrier or a shuffle, which
// it leaves only when every thread concerned has arrived; between two of them the threads run one after another, in an
// order that the caller chooses. A barrier that is missing so lets a thread read what another has yet to write, or
// write over what another has yet to read, in at least one of the orders.
//
// Shared memory is a static variable, as no two blocks run at once.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __shared__ static
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)

struct Index3 {
  unsigned x, y, z;
};

struct uint2 {
  unsigned x, y;
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline thread_local Index3 threadIdx, blockIdx, gridDim;

namespace emulation {

constexpr int kWarpThreads = 32;
constexpr size_t kStackBytes = 256 * 1024;

enum class Order : int { ascending, descending, shuffled };

enum class State { ready, at_block_barrier, at_warp_barrier, done };

// Where a fibre or the scheduler resumes. The compiler's own jumps, as swapcontext asks the kernel for the signal mask
// at every switch; a ucontext only gives a fibre its stack.
using Jump = void* [5];

struct Fibre {
  ucontext_t context;
  Jump jump;
  bool started = false;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  State state = State::done;
  void* fake_stack = nullptr;
};

struct Block {
  std::vector<std::unique_ptr<Fibre>> fibres;
  Jump scheduler;
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
  int threads = 0, current = 0;
  std::function<void()> body;
  std::vector<uint64_t> exchange;  // a word of each thread, for shuffles
};

inline Block block;

// Separate functions: a compiler must not take the two for parts of one flow.
[[noreturn]] __attribute__((noinline)) inline void go_on_at(Jump& there) {
  __builtin_longjmp(there, 1);
}
[[noreturn]] __attribute__((noinline)) inline void begin(Fibre& fibre) {
  fibre.started = true;
  setcontext(&fibre.context);
  std::abort();
}
__attribute__((noinline)) inline void leave_for(Jump& here, Fibre* fibre) {
  if (__builtin_setjmp(here) != 0) return;
  if (fibre == nullptr) go_on_at(block.scheduler);
  if (fibre->started) go_on_at(fibre->jump);
  begin(*fibre);
}

inline void leave_fibre(State state) {
  Fibre& fibre = *block.fibres[static_cast<size_t>(block.current)];
  fibre.state = state;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fibre.fake_stack, block.scheduler_stack, block.scheduler_stack_bytes);
#endif
  leave_for(fibre.jump, nullptr);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fibre.fake_stack, &block.scheduler_stack, &block.scheduler_stack_bytes);
#endif
}

// The endless work of a fibre: the thread of one block, then that of the next.
inline void enter_fibre() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_stack, &block.scheduler_stack_bytes);
#endif
  for (;;) {
    block.body();
    leave_fibre(State::done);
  }
}

inline void resume_fibre(int thread) {
  Fibre& fibre = *block.fibres[static_cast<size_t>(thread)];
  block.current = thread;
  threadIdx = {static_cast<unsigned>(thread), 0, 0};
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&block.scheduler_fake_stack, fibre.stack.get(), kStackBytes);
#endif
  leave_for(block.scheduler, &fibre);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(block.scheduler_fake_stack, nullptr, nullptr);
#endif
}

// Lets the threads from `first` on that wait at a barrier resume if all of them that are not done wait there.
inline bool release(int first, int count, State barrier) {
  bool waiting = false;
  for (int i = first; i < first + count; ++i) {
    const State state = block.fibres[static_cast<size_t>(i)]->state;
    if (state != barrier && state != State::done) return false;
    waiting |= state == barrier;
  }
  if (!waiting) return false;
  for (int i = first; i < first + count; ++i) {
    State& state = block.fibres[static_cast<size_t>(i)]->state;
    if (state == barrier) state = State::ready;
  }
  return true;
}

inline void run_block(int threads, Order order, const std::function<void()>& body) {
  block.body = body;
  block.threads = threads;
  block.exchange.assign(static_cast<size_t>(threads), 0);
  while (static_cast<int>(block.fibres.size()) < threads) {
    auto fibre = std::make_unique<Fibre>();
    getcontext(&fibre->context);
    fibre->context.uc_stack.ss_sp = fibre->stack.get();
    fibre->context.uc_stack.ss_size = kStackBytes;
    fibre->context.uc_link = nullptr;
    makecontext(&fibre->context, enter_fibre, 0);
    block.fibres.push_back(std::move(fibre));
  }
  for (int i = 0; i < threads; ++i) block.fibres[static_cast<size_t>(i)]->state = State::ready;
  std::vector<int> turns(static_cast<size_t>(threads));
  std::iota(turns.begin(), turns.end(), 0);
  if (order == Order::descending) std::reverse(turns.begin(), turns.end());
  if (order == Order::shuffled) {
    uint64_t seed = 0x9e3779b97f4a7c15u;
    for (size_t i = turns.size() - 1; i > 0; --i) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      std::swap(turns[i], turns[(seed >> 33) % (i + 1)]);
    }
  }
  // In the first two orders each warp in turn runs as far as it can; in the third all warps run side by side.
  const int group = order == Order::shuffled ? threads : kWarpThreads;
  for (;;) {
    for (int first = 0; first < threads; first += group) {
      const auto from = turns.begin() + first, to = turns.begin() + std::min(first + group, threads);
      for (bool progress = true; progress;) {
        progress = false;
        for (auto thread = from; thread != to; ++thread) {
          if (block.fibres[static_cast<size_t>(*thread)]->state != State::ready) continue;
          resume_fibre(*thread);
          progress = true;
        }
        for (int warp = 0; warp < threads; warp += kWarpThreads) {
          progress |= release(warp, std::min(kWarpThreads, threads - warp), State::at_warp_barrier);
        }
      }
    }
    if (release(0, threads, State::at_block_barrier)) continue;
    for (int i = 0; i < threads; ++i) {
      if (block.fibres[static_cast<size_t>(i)]->state != State::done) {
        std::fprintf(stderr, "threads wait at different barriers\n");
        std::abort();
      }
    }
    return;
  }
}

// A launch as on a GPU: the kernel is called for every thread of every block.
struct Launcher {
  Order order;
  int64_t threads_run = 0;

  template <class Kernel, class Grid, class Job>
  void operator()(Kernel kernel, Grid grid, int threads, const Job& job) {
    gridDim = {grid.x, grid.y, 1};
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, 0};
        run_block(threads, order, [&] { kernel(job); });
      }
    }
    threads_run += static_cast<int64_t>(grid.x) * grid.y * threads;
  }
};

// Each thread of the warp hands over a word and, when all have, takes another's.
template <class T>
T exchange(T mine, int lane) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  const int thread = block.current, warp = thread / kWarpThreads * kWarpThreads;
  std::memcpy(&block.exchange[static_cast<size_t>(thread)], &mine, sizeof(T));
  leave_fibre(State::at_warp_barrier);
  T theirs;
  std::memcpy(&theirs, &block.exchange[static_cast<size_t>(warp + lane)], sizeof(T));
  leave_fibre(State::at_warp_barrier);  // until all have taken, none may hand over again
  return theirs;
}

}  // namespace emulation

inline void __syncthreads() {
  emulation::leave_fibre(emulation::State::at_block_barrier);
}

inline void __syncwarp() {
  emulation::leave_fibre(emulation::State::at_warp_barrier);
}

// The names of csrc/processor.cuh.
namespace fdjpeg::processor {

inline float multiply(float a, float b) {
  return a * b;
}
inline double multiply(double a, double b) {
  return a * b;
}
inline float add(float a, float b) {
  return a + b;
}
inline float fused(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float saturate(float x) {
  return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f;
}
inline int round_to_int(double x) {
  return static_cast<int>(std::nearbyint(x));
}

inline unsigned bits_of(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float float_of(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline unsigned largest(unsigned a, unsigned b, unsigned c) {
  return std::max({a, b, c});
}

inline float widen_half(uint16_t x) {
  _Float16 half;
  std::memcpy(&half, &x, 2);
  return static_cast<float>(half);
}
inline float widen_bfloat(uint16_t x) {
  return float_of(static_cast<unsigned>(x) << 16);
}

inline unsigned narrow_halves(float a, float b) {
  const _Float16 pair[2] = {static_cast<_Float16>(a), static_cast<_Float16>(b)};
  unsigned word;
  std::memcpy(&word, pair, 4);
  return word;
}

inline unsigned narrow_bfloat(float x) {
  if (x != x) return 0x7fff;
  const unsigned bits = bits_of(x);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // half to even
}
inline unsigned narrow_bfloats(float a, float b) {
  return narrow_bfloat(a) | narrow_bfloat(b) << 16;
}

inline unsigned pack_saturated(int a, int b, int c, int d) {
  const auto byte = [](int x) { return static_cast<unsigned>(std::clamp(x, 0, 255)); };
  return byte(a) | byte(b) << 8 | byte(c) << 16 | byte(d) << 24;
}

inline unsigned permute(unsigned a, unsigned b, unsigned selector) {
  const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
  unsigned word = 0;
  for (int i = 0; i < 4; ++i) word |= static_cast<unsigned>(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return word;
}

template <class T>
inline T* keep(T* address) {
  return address;
}

// As on a GPU, an address must be a multiple of the word.
template <class Word>
inline void check_aligned(const Word* address) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(Word) != 0) {
    std::fprintf(stderr, "misaligned address\n");
    std::abort();
  }
}
template <class Word>
inline Word load_once(const Word* address) {
  check_aligned(address);
  Word word;
  std::memcpy(&word, address, sizeof(Word));
  return word;
}
template <class Word>
inline void store_once(Word* address, Word word) {
  check_aligned(address);
  std::memcpy(address, &word, sizeof(Word));
}

template <class Word>
inline void copy_async(Word* shared, const Word* address) {
  *shared = load_once(address);
}
inline void wait_for_copies() {}

inline unsigned shuffle(unsigned x, int lane) {
  return emulation::exchange(x, lane);
}
template <class T>
inline T shuffle_xor(T x, int mask) {
  return emulation::exchange(x, (emulation::block.current % emulation::kWarpThreads) ^ mask);
}
inline unsigned ballot(bool condition) {
  unsigned bits = 0;
  for (int lane = 0; lane < emulation::kWarpThreads; ++lane) {
    bits |= static_cast<unsigned>(emulation::exchange(static_cast<unsigned>(condition), lane)) << lane;
  }
  return bits;
}

}  // namespace fdjpeg::processor
