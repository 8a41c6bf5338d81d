// C interface of the CPU engine, which nes_jax/native/__init__.py calls through ctypes.
//
// It checks the sizes in a request, chooses the code for the concept and for the type of the
// payoffs, and solves the batch of games (batch.h) or of Newton systems (system.h).
#include "system.h"

#define NES_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

// Results of `nes_cpu_solve` that stand for failures.
constexpr int kOutOfMemory = -1, kBadSizes = -2;
// Largest number of entries of an array or of a Newton matrix.
constexpr int64_t kMostEntries = int64_t(1) << 30;

// Whether the sizes are within the limits of the engine.
template <class Request>
bool sizes_are_good(const Request& r) {
  if (r.games < 0 || r.players < 2 || r.players > nes::kMaxPlayers) return false;
  if (r.correlated && r.players != 2) return false;
  double joint = 1, duals = 0;
  for (int p = 0; p < r.players; ++p) {
    if (r.counts[p] < 1) return false;
    joint *= r.counts[p];
    duals += r.correlated ? double(r.counts[p]) * r.counts[p] : double(r.counts[p]);
  }
  const double side = r.correlated ? joint : duals;
  return joint <= kMostEntries && duals <= kMostEntries && side * side <= kMostEntries;
}

// Solves a request with the code for its type of payoffs.
template <bool kCorrelated>
int64_t with_payoffs(const NesRequest& r) {
  return r.wide_payoffs ? nes::solve_batch<kCorrelated, double>(r)
                        : nes::solve_batch<kCorrelated, float>(r);
}

}  // namespace

// Solves a batch of games. Returns the number of games that are marked as invalid, or a negative
// number if it fails.
NES_EXPORT int64_t nes_cpu_solve(const NesRequest* request) {
  if (!sizes_are_good(*request)) return kBadSizes;
  if (request->num_passes < 1 || request->num_passes > kNesMaxPasses) return kBadSizes;
  try {
    return request->correlated ? with_payoffs<true>(*request) : with_payoffs<false>(*request);
  } catch (...) {
    // An allocation is the only thing that can fail.
    return kOutOfMemory;
  }
}

// Solves a batch of Newton systems. Returns 0, or a negative number if it fails.
NES_EXPORT int64_t nes_cpu_solve_systems(const NesSystem* request) {
  if (!sizes_are_good(*request)) return kBadSizes;
  try {
    request->correlated ? nes::solve_systems<true>(*request) : nes::solve_systems<false>(*request);
    return 0;
  } catch (...) {
    return kOutOfMemory;
  }
}

// Returns which of the libraries this processor can run: 0 for the baseline, 1 for AVX2, 2 for
// AVX-512.
NES_EXPORT int nes_cpu_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  return wide ? 2 : 1;
#else
  return 0;
#endif
}
