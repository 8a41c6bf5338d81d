// The C interface of the CPU engine, called from nes_jax/native/__init__.py.
#include "batch.h"

#define NES_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kOutOfMemory = -1, kBadSizes = -2;
constexpr int64_t kMostEntries = int64_t(1) << 30;

bool sizes_are_good(const NesRequest& r) {
  if (r.games < 0 || r.players < 2 || r.players > nes::kMaxPlayers) return false;
  if (r.correlated && r.players != 2) return false;
  if (r.num_passes < 1 || r.num_passes > 3) return false;
  double joint = 1, duals = 0;
  for (int p = 0; p < r.players; ++p) {
    if (r.counts[p] < 1) return false;
    joint *= r.counts[p];
    duals += r.correlated ? double(r.counts[p]) * r.counts[p] : double(r.counts[p]);
  }
  const double side = r.correlated ? joint : duals;
  return joint <= kMostEntries && duals <= kMostEntries && side * side <= kMostEntries;
}

template <bool kCorrelated>
int64_t with_payoffs(const NesRequest& r) {
  return r.wide_payoffs ? nes::solve_batch<kCorrelated, double>(r)
                        : nes::solve_batch<kCorrelated, float>(r);
}

}  // namespace

// -> the number of games that are marked as invalid, or a negative number for a failure.
NES_EXPORT int64_t nes_cpu_solve(const NesRequest* request) {
  if (!sizes_are_good(*request)) return kBadSizes;
  try {
    return request->correlated ? with_payoffs<true>(*request) : with_payoffs<false>(*request);
  } catch (...) {  // nothing but memory can fail
    return kOutOfMemory;
  }
}

// The instruction sets that this processor has, of those that the engine is built for.
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
