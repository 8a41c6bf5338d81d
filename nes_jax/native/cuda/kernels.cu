// Kernel that solves a batch of games, for one concept and size. launch.cpp compiles it with NVRTC.
// Macros select the variant:
//   NES_CONCEPT  Coarse or Correlated
//   NES_SIZE     N, for games of up to N x N strategies
//   NES_PADDED   true for games with fewer strategies than N or with strategies that do not exist
#include "coarse.h"
#include "correlated.h"

namespace nes {

using Solver = NES_CONCEPT<NES_SIZE, NES_PADDED>;

}  // namespace nes

extern "C" __global__ void __launch_bounds__(nes::kThreads, nes::Solver::kBlocks)
    nes_solve(nes::Arguments args) {
  constexpr int teams = nes::kThreads / nes::Solver::kTeam;
  __shared__ __align__(16) float memory[teams * nes::Solver::kShared];
  const int thread = static_cast<int>(threadIdx.x);
  nes::Solver solver(args, memory + thread / nes::Solver::kTeam * nes::Solver::kShared, thread);
  nes::work(solver, (static_cast<int>(blockIdx.x) * nes::kThreads + thread) / nes::kWarp);
}
