// Arguments of a kernel launch and the layout of threads, for the kernels and for launch.cpp.
#pragma once

namespace nes {

// Number of lanes of a warp.
constexpr int kWarp = 32;
// Number of threads of a block.
constexpr int kThreads = 128;

// Number of lanes that share a game of up to `size` x `size` strategies.
constexpr int team_lanes(bool correlated, int size) {
  if (correlated) return size * size / 2;
  return size == 16 ? 16 : size / 2;
}

// Arguments of a kernel. Arrays are dense, lie in the memory of the device and have the games along
// the first axis.
struct Arguments {
  // Payoffs [B, 2, n, m], which are 0 for a player's best replies and negative elsewhere.
  const float* payoffs;
  // Logarithm of the target joint [B, n, m]; null for maximum entropy.
  const float* log_target;
  // Limits of the gains [B, 2].
  const float* epsilon;
  // Which strategies of player 0 exist [B, n]; null if all do.
  const unsigned char* rows;
  // Which strategies of player 1 exist [B, m]; null if all do.
  const unsigned char* columns;
  // Answer [B, n, m].
  float* joint;
  // Duals of both players: [B, n] and [B, m] for CCE, [B, n, n] and [B, m, m] for CE.
  float* duals[2];
  // Residual of the answer [B].
  float* residual;
  // Number of steps [B].
  int* iterations;
  // Number of chunks that warps took after their first one [1]; 0 at the launch.
  int* taken;
  // Number of games.
  int batch;
  // Numbers of strategies of player 0 and of player 1.
  int n;
  int m;
  // Number of games that a warp takes at a time.
  int chunk;
  // Number of warps of the launch.
  int warps;
  // Error at which a game is done: margin * tolerance.
  float threshold;
  // Largest number of steps of a game.
  int max_iterations;
};

}  // namespace nes
