// Emulation of the parts of CUDA that the kernels use, for tests on the host.
//
// The lanes of a warp are 32 fibres. A fibre that reaches a collective operation hands over to the
// next one, until all have reached it. The warps of a launch run one after the other in one thread.
#pragma once

// Checks of the C library mistake jumps between fibres for errors.
#undef _FORTIFY_SOURCE

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define __global__
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct Index {
  unsigned x;
};
inline Index threadIdx, blockIdx;

namespace emulation {

constexpr int kLanes = 32;
// Size of a fibre's stack.
constexpr size_t kStackBytes = 1 << 20;

// Value of a lane in a collective operation, and the number of that operation.
struct Box {
  int operation;
  uint32_t value;
};
// State of the warp that runs. There are two sets of boxes, used in turn, because a lane may reach
// the next operation while others still read the values of the last one.
struct Warp {
  ucontext_t home, entry[kLanes];
  jmp_buf at_home, at[kLanes];
  bool begun[kLanes], done[kLanes];
  unsigned visits[kLanes];
  Box box[2][kLanes];
  int current;
  unsigned first_thread, block;
  void (*body)();
};
inline Warp warp;

// Leaves the fibre until all other fibres have reached the same operation.
inline void yield() {
  const int me = warp.current;
  if (_setjmp(warp.at[me]) == 0) _longjmp(warp.at_home, 1);
}

// First function of every fibre.
inline void enter() {
  warp.body();
  warp.done[warp.current] = true;
  _longjmp(warp.at_home, 1);
}

// Takes part in a collective operation with a value, and returns the values of all lanes.
inline const Box* meet(int operation, uint32_t value) {
  const int me = warp.current;
  Box* const box = warp.box[warp.visits[me]++ & 1];
  box[me] = {operation, value};
  yield();
  // If every lane finds the next lane at the same operation, all lanes are at that operation.
  const int next = (me + 1) % kLanes;
  if (warp.visits[next] < warp.visits[me] || box[next].operation != operation) {
    std::fprintf(stderr, "lanes %d and %d come to different collective operations, %d and %d\n", me,
                 next, operation, box[next].operation);
    std::abort();
  }
  return box;
}

// Continues a fibre until it yields or ends.
inline void resume(int lane) {
  warp.current = lane;
  threadIdx.x = warp.first_thread + static_cast<unsigned>(lane);
  blockIdx.x = warp.block;
  if (_setjmp(warp.at_home) != 0) return;
  if (warp.begun[lane]) _longjmp(warp.at[lane], 1);
  warp.begun[lane] = true;
  setcontext(&warp.entry[lane]);
}

// Runs `body` as a kernel with so many blocks, and so many threads in each block.
inline void launch(int blocks, int threads, void (*body)()) {
  static std::vector<std::vector<char>> stacks(kLanes, std::vector<char>(kStackBytes));
  warp.body = body;
  for (int block = 0; block < blocks; ++block) {
    for (int first = 0; first < threads; first += kLanes) {
      warp.block = static_cast<unsigned>(block);
      warp.first_thread = static_cast<unsigned>(first);
      for (int lane = 0; lane < kLanes; ++lane) {
        warp.begun[lane] = warp.done[lane] = false;
        warp.visits[lane] = 0;
        getcontext(&warp.entry[lane]);
        warp.entry[lane].uc_stack.ss_sp = stacks[lane].data();
        warp.entry[lane].uc_stack.ss_size = stacks[lane].size();
        warp.entry[lane].uc_link = nullptr;
        makecontext(&warp.entry[lane], enter, 0);
      }
      for (int left = kLanes; left > 0;) {
        left = 0;
        for (int lane = 0; lane < kLanes; ++lane) {
          if (!warp.done[lane]) resume(lane);
          left += warp.done[lane] ? 0 : 1;
        }
      }
    }
  }
}

inline float to_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline uint32_t to_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

}  // namespace emulation

inline float __shfl_sync(unsigned, float x, int source, int width = 32) {
  const emulation::Box* box = emulation::meet(1000, emulation::to_bits(x));
  const int me = emulation::warp.current;
  return emulation::to_float(box[me / width * width + source % width].value);
}
inline int __shfl_sync(unsigned, int x, int source, int width = 32) {
  const emulation::Box* box = emulation::meet(2000, static_cast<uint32_t>(x));
  const int me = emulation::warp.current;
  return static_cast<int>(box[me / width * width + source % width].value);
}
inline float __shfl_xor_sync(unsigned, float x, int mask, int = 32) {
  const emulation::Box* box = emulation::meet(3000 + mask, emulation::to_bits(x));
  return emulation::to_float(box[emulation::warp.current ^ mask].value);
}
inline unsigned __ballot_sync(unsigned, bool x) {
  const emulation::Box* box = emulation::meet(4000, x ? 1u : 0u);
  unsigned result = 0;
  for (int lane = 0; lane < emulation::kLanes; ++lane) result |= box[lane].value << lane;
  return result;
}
inline bool __any_sync(unsigned mask, bool x) { return __ballot_sync(mask, x) != 0; }
inline void __syncwarp() { emulation::meet(5000, 0); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int atomicAdd(int* at, int x) {
  const int before = *at;
  *at += x;
  return before;
}

namespace nes {

inline float larger(float a, float b) { return a != a ? a : b != b ? b : a > b ? a : b; }
inline float smaller(float a, float b) { return -larger(-a, -b); }
inline float reciprocal(float x) { return 1.f / x; }
inline float infinity() { return HUGE_VALF; }
inline float inverse_root(float x) { return 1.f / sqrtf(x); }
inline float log_of(float x) { return logf(x); }
inline float exp_of(float x) { return expf(x); }
inline void prefetch(const void*) {}

}  // namespace nes
