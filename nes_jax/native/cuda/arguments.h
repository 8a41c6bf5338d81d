// What a launch is given and how it is laid out: known to the kernels and to launch.cpp.
#pragma once

namespace nes {

constexpr int kWarp = 32;
constexpr int kThreads = 128;  // of a block

// Lanes that share a game of up to `size` x `size` strategies.
constexpr int team_lanes(bool correlated, int size) {
  if (correlated) return size * size / 2;
  return size == 16 ? 16 : size / 2;
}

// Arrays are in the memory of the device, dense, games first.
struct Arguments {
  const float* payoffs;          // [B, 2, n, m], 0 for a player's best replies and less elsewhere
  const float* log_target;       // [B, n, m], or null: maximum entropy
  const float* epsilon;          // [B, 2]
  const unsigned char* rows;     // [B, n], the strategies of player 0 that exist, or null: all do
  const unsigned char* columns;  // [B, m]
  float* joint;                  // [B, n, m]
  float* duals[2];               // CCE: [B, n], [B, m]; CE: [B, n, n], [B, m, m]
  float* residual;               // [B]
  int* iterations;               // [B]
  int* taken;                    // [1] chunks that warps took beside their first; 0 at launch
  int batch;
  int n;
  int m;
  int chunk;        // games that a warp takes at a time
  int warps;        // of the launch
  float threshold;  // margin * tolerance
  int max_iterations;
};

}  // namespace nes
