// Base of the kernels: arithmetic, teams of lanes, the progress of a game and the queue of games.
//
// coarse.h and correlated.h build the interior-point method of nes_jax/exact on it, for CCE and CE.
// The file compiles under NVRTC and nvcc. It also compiles on the host with emulation.h of the
// tests, which runs the lanes of a warp as 32 fibres.
#pragma once

#include "arguments.h"

#ifdef __CUDACC__
#define NES_DEVICE __device__ __forceinline__
#define NES_PRAGMA(text) _Pragma(#text)
#define NES_UNROLL NES_PRAGMA(unroll)
#define NES_ROLL NES_PRAGMA(unroll 1)
#else
#include "emulation.h"
#define NES_DEVICE inline
#define NES_UNROLL
#define NES_ROLL
#endif

namespace nes {

// Constants of nes_jax/exact, which has names like _TO_BOUNDARY for kToBoundary.
constexpr float kToBoundary = 0.98f;
constexpr float kTiny = 1e-30f;
// Machine epsilon of float32.
constexpr float kEpsilon = 1.1920929e-7f;
// Usual damping, and the share of the diagonal by which a pivot is raised: _DAMPING_ULPS there.
constexpr float kFloor = 0.5f * kEpsilon;
constexpr float kDampingGrowth = 100.f;
constexpr float kMaxDamping = 1e-2f;
constexpr float kRowUlps = 1.f;
constexpr float kMaxGrowth = 1e4f;
constexpr float kShortStep = 0.1f;
constexpr int kMaxRefused = 5;
// Ratio of slack to dual for a row that does not exist. It is so large that the row has no effect.
constexpr float kAbsentRatio = 1e30f;

// Mask of all lanes of a warp.
constexpr unsigned kAllLanes = 0xffffffffu;

#ifdef __CUDACC__

// Larger and smaller of two numbers. As in JAX, the result is NaN if one of them is NaN.
NES_DEVICE float larger(float a, float b) {
#if __CUDA_ARCH__ >= 800
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
#else
  return a != a ? a : (b != b ? b : fmaxf(a, b));
#endif
}
NES_DEVICE float smaller(float a, float b) { return -larger(-a, -b); }
// Reciprocal within one ulp, in one instruction.
NES_DEVICE float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
NES_DEVICE float infinity() { return __int_as_float(0x7f800000); }
NES_DEVICE float inverse_root(float x) { return rsqrtf(x); }
NES_DEVICE float log_of(float x) { return __logf(x); }
NES_DEVICE float exp_of(float x) { return __expf(x); }
NES_DEVICE void prefetch(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

#endif

// Selects one of two values that are both computed. With ?: on elements of arrays, the compiler may
// select between addresses, which forces the arrays out of the registers.
NES_DEVICE float choose(bool first, float a, float b) { return first ? a : b; }

NES_DEVICE float magnitude(float x) { return fabsf(x); }

// Writes `Count` neighbouring floats to memory that is aligned to them.
template <int Count>
NES_DEVICE void put(float* at, const float* x) {
  if constexpr (Count % 4 == 0) {
    NES_UNROLL for (int i = 0; i < Count; i += 4) {
      *reinterpret_cast<float4*>(at + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    }
  } else if constexpr (Count == 2) {
    *reinterpret_cast<float2*>(at) = make_float2(x[0], x[1]);
  } else {
    NES_UNROLL for (int i = 0; i < Count; ++i) at[i] = x[i];
  }
}
// Reads `Count` neighbouring floats from memory that is aligned to them.
template <int Count>
NES_DEVICE void get(const float* at, float* x) {
  if constexpr (Count % 4 == 0) {
    NES_UNROLL for (int i = 0; i < Count; i += 4) {
      const float4 y = *reinterpret_cast<const float4*>(at + i);
      x[i] = y.x, x[i + 1] = y.y, x[i + 2] = y.z, x[i + 3] = y.w;
    }
  } else if constexpr (Count == 2) {
    const float2 y = *reinterpret_cast<const float2*>(at);
    x[0] = y.x, x[1] = y.y;
  } else {
    NES_UNROLL for (int i = 0; i < Count; ++i) x[i] = at[i];
  }
}

// Pairwise sum, which has a smaller rounding error than a sum in sequence.
template <int Count>
NES_DEVICE float pairwise(const float* x) {
  if constexpr (Count == 1) {
    return x[0];
  } else {
    return pairwise<Count / 2>(x) + pairwise<Count - Count / 2>(x + Count / 2);
  }
}

// Neighbouring lanes of a warp that share a game.
template <int Lanes>
struct Team {
  // Number of this lane within the team.
  int lane;
  // Number of this lane within the warp.
  int warp_lane;

  // Value of x in the lane `source` of the team.
  NES_DEVICE float from(float x, int source) const {
    return Lanes == 1 ? x : __shfl_sync(kAllLanes, x, source, Lanes);
  }
  // Value of x in the lane whose number differs in the bits of `mask`.
  NES_DEVICE float across(float x, int mask) const {
    return __shfl_xor_sync(kAllLanes, x, mask, Lanes);
  }
  // Sum over the team. Every lane gets the same bits.
  NES_DEVICE float sum(float x) const {
    NES_UNROLL for (int mask = 1; mask < Lanes; mask *= 2) x += across(x, mask);
    return x;
  }
  // Maximum over the team. Every lane gets the same bits.
  NES_DEVICE float largest(float x) const {
    NES_UNROLL for (int mask = 1; mask < Lanes; mask *= 2) x = larger(x, across(x, mask));
    return x;
  }
  // Barrier: all writes to shared memory before it are seen by all reads after it.
  NES_DEVICE void meet() const { __syncwarp(); }
};

// Progress of a game: the part of `State` in nes_jax/exact other than the point. All lanes of a
// team have the same values.
struct Progress {
  float error, merit, damping, best_error;
  // Number of steps, and number of refused steps in a row.
  int iterations, refused;
  // Number of the game in the batch.
  int game;
  // Whether the team has a game.
  bool active;
  // Whether the current point is the best so far. Otherwise the best point is in the memory of the
  // answer.
  bool at_best;

  NES_DEVICE void clear() {
    error = merit = best_error = 0.f;
    damping = kFloor;
    iterations = refused = game = 0;
    active = at_best = false;
  }
  NES_DEVICE void begin(float first_error, float first_merit) {
    error = best_error = first_error;
    merit = first_merit;
    damping = kFloor;
    iterations = refused = 0;
    at_best = true;
  }
  NES_DEVICE bool running(const Arguments& args) const {
    return error > args.threshold && refused < kMaxRefused && iterations < args.max_iterations;
  }

  // Accepts or refuses a step to a point with this error and merit, and updates the progress.
  //
  // Returns whether to move to that point. A game that does not run never moves. If rounding spoils
  // a factorisation, the merit rises far or is not finite; the step is then refused, and the next
  // one is damped more. `leaves_best` is set if the point that is left is the best so far, and must
  // be written to the answer.
  NES_DEVICE bool judge(const Arguments& args, float next_error, float next_merit,
                        bool& leaves_best) {
    const bool runs = active && running(args);
    const bool sound = next_merit < kMaxGrowth * merit || next_error < error;
    const bool move = runs && sound, better = move && next_error < best_error;
    leaves_best = move && !better && at_best;
    if (runs) {
      damping = sound ? larger(damping * (1.f / kDampingGrowth), kFloor)
                      : smaller(damping * kDampingGrowth, kMaxDamping);
      refused = sound ? 0 : refused + 1;
      iterations += 1;
    }
    if (move) {
      error = next_error;
      merit = next_merit;
      at_best = better;
    }
    if (better) best_error = next_error;
    return move;
  }
};

// Finds the strategies of both players that exist in a game, as bits.
template <int N>
NES_DEVICE void existing(const Arguments& args, long long game, unsigned (&bits)[2]) {
  bits[0] = bits[1] = 0u;
  NES_UNROLL for (int k = 0; k < N; ++k) {
    const bool row = k < args.n && (!args.rows || args.rows[game * args.n + k]);
    const bool column = k < args.m && (!args.columns || args.columns[game * args.m + k]);
    bits[0] |= row ? 1u << k : 0u;
    bits[1] |= column ? 1u << k : 0u;
  }
}

// Replaces NaN by infinity. A NaN would make comparisons of errors and merits meaningless.
NES_DEVICE float never_nan(float x) { return x == x ? x : infinity(); }

// Mehrotra's centring: the product to aim at. It is the mean product now, times the cube of the
// share that the predictor alone would leave.
NES_DEVICE float centring(float now, float then, float inverse_count) {
  const float left = then * reciprocal(now);
  return smaller(larger(left * left * left, 1e-6f), 1.f) * now * inverse_count;
}
// Length of the step, from the reciprocal of the length at which a variable reaches zero.
NES_DEVICE float step_length(float reciprocal_length) {
  return smaller(1.f, kToBoundary * reciprocal(larger(reciprocal_length, 1e-3f)));
}

// Solves a warp's share of the batch. Warps take chunks of games from a common counter. Within a
// warp, a team whose game is done takes the next one, so that no team waits for the slowest. A
// start takes the time of the whole warp, and therefore waits until half of the teams need one.
//
// A `Solver` has `args`, `progress`, `team` and kTeam (the number of lanes of a team), and
//   start(fresh)   loads the games of the fresh teams and sets their starting points
//   step()         takes one step in every team
//   write_point()  writes the point as the answer; only some teams may call it
template <class Solver>
NES_DEVICE void work(Solver& solver, int warp) {
  constexpr int kTeams = kWarp / Solver::kTeam;
  const Arguments& args = solver.args;
  Progress& progress = solver.progress;
  const bool leads = solver.team.lane == 0;
  const int per_game = 2 * args.n * args.m;
  int next = 0, end = 0;
  auto take = [&](int chunk) {
    const long long begin = static_cast<long long>(chunk) * args.chunk;
    next = begin < args.batch ? static_cast<int>(begin) : args.batch;
    end = args.batch - next < args.chunk ? args.batch : next + args.chunk;
    const char* from = reinterpret_cast<const char*>(args.payoffs) + 4ll * next * per_game;
    const int bytes = (end - next) * per_game * 4;
    for (int at = 128 * solver.team.warp_lane; at < bytes; at += 128 * kWarp) prefetch(from + at);
  };
  take(warp);
  for (;;) {
    if (progress.active && !progress.running(args)) {
      if (progress.at_best) solver.write_point();
      if (leads) {
        args.residual[progress.game] = progress.best_error;
        args.iterations[progress.game] = progress.iterations;
      }
      progress.active = false;
    }
    unsigned idle = __ballot_sync(kAllLanes, leads && !progress.active);
    if (idle != 0 && next < end && 2 * __popc(idle) >= kTeams) {
      bool fresh = false;
      do {
        // The first idle team takes the next game, the second idle team the game after it, and so
        // on.
        const unsigned before = (1u << (solver.team.warp_lane - solver.team.lane)) - 1u;
        const int candidate = next + __popc(idle & before);
        if (!progress.active && candidate < end) {
          progress.game = candidate;
          progress.active = fresh = true;
        }
        next += __popc(idle);
        if (next >= end) {
          int number = 0;
          if (solver.team.warp_lane == 0) number = atomicAdd(args.taken, 1);
          take(args.warps + __shfl_sync(kAllLanes, number, 0));
        }
        idle = __ballot_sync(kAllLanes, leads && !progress.active);
      } while (idle != 0 && next < end);
      solver.start(fresh);
    }
    if (!__any_sync(kAllLanes, progress.active)) break;
    solver.step();
  }
}

}  // namespace nes
