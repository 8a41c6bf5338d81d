// Newton systems of batches of games at points that are given, for derivatives of solutions.
//
// nes_jax/exact/implicit.py has the equations. The systems are formed and solved in float64, by the
// code of the interior-point method (method.h), whatever the type of the arrays.
#pragma once
#include "batch.h"

extern "C" {

// A batch of systems, as in `Method::solve_given`. All arrays are row-major, of float64 if `wide` is
// set and of float32 otherwise.
struct NesSystem {
  int64_t games;
  // Numbers of strategies, [players].
  const int32_t* counts;
  int32_t players, correlated, wide, soft, threads;
  // Normalised payoffs [games, players, joint], temperature and rho [games].
  const void *payoffs, *temperature, *rho;
  // The point: joint and bound [games, joint], slack and duals [games, duals], room
  // [games, players]. All numbers are positive.
  const void *joint, *bound, *slack, *duals, *room;
  // Right sides, with the shapes of joint, duals, games and room.
  const void *stationary, *feasible, *mass, *room_sides;
  // Solutions, with the same shapes.
  void *out_joint, *out_duals, *out_shift, *out_room;
};

}  // extern "C"

namespace nes {

// Largest number of rounds of iterative refinement. CEs need more than a step of the method does: the
// slacks of rows that bind are next to nothing.
constexpr int kRefinements = 10;

// Solver of the systems of a request in the lanes of a `Method`. Each thread has one.
template <bool kCorrelated>
class SystemWorker {
 public:
  static constexpr int W = kLanes<double>;
  using M = typename Lanes<double, W>::M;
  using V = typename Lanes<double, W>::V;

  SystemWorker(const NesSystem& request, const Shape& shape) : request_(request), shape_(shape) {
    method_.set_up(shape, Config{}, request.games, request.soft != 0, false, false);
  }

  // Takes W games at a time until all are done. Threads share the counter.
  void run(std::atomic<int64_t>& counter) {
    const FlushSubnormals flush;
    for (;;) {
      const int64_t first = counter.fetch_add(W);
      if (first >= request_.games) return;
      const int count = int(std::min<int64_t>(W, request_.games - first));
      M active{};
      for (int l = 0; l < count; ++l) active[l] = -1, load(l, first + l);
      method_.solve_given(active, kRefinements);
      for (int l = 0; l < count; ++l) unload(l, first + l);
    }
  }

 private:
  const NesSystem& request_;
  const Shape& shape_;
  Method<double, W, kCorrelated> method_;

  // The `count` numbers of a game in an array of the request.
  struct Part {
    Numbers array;
    int64_t first;
    int count;

    void read(V* to, int lane) const {
      for (int i = 0; i < count; ++i) to[i][lane] = array.get(first + i);
    }
    void write(const V* from, int lane) const {
      for (int i = 0; i < count; ++i) array.set(first + i, from[i][lane]);
    }
  };
  Part part(const void* array, int64_t game, int count) const {
    return {{const_cast<void*>(array), request_.wide != 0}, game * count, count};
  }

  void load(int l, int64_t game) {
    const int size = shape_.size, num_duals = shape_.num_duals, players = request_.players;
    for (int p = 0; p < players; ++p)
      part(request_.payoffs, game * players + p, size).read(method_.operate.payoffs[p], l);
    part(request_.temperature, game, 1).read(&method_.temperature, l);
    part(request_.joint, game, size).read(method_.now.joint, l);
    part(request_.bound, game, size).read(method_.now.bound, l);
    part(request_.slack, game, num_duals).read(method_.now.slack, l);
    part(request_.duals, game, num_duals).read(method_.now.duals, l);
    auto& sides = method_.next_residuals;
    part(request_.stationary, game, size).read(sides.stationary, l);
    part(request_.feasible, game, num_duals).read(sides.feasible, l);
    part(request_.mass, game, 1).read(&sides.mass, l);
    if (!request_.soft) return;
    part(request_.rho, game, 1).read(&method_.rho, l);
    part(request_.room, game, players).read(method_.now.room, l);
    part(request_.room_sides, game, players).read(sides.room, l);
  }

  void unload(int l, int64_t game) const {
    const auto& found = method_.best;
    part(request_.out_joint, game, shape_.size).write(found.joint, l);
    part(request_.out_duals, game, shape_.num_duals).write(found.duals, l);
    part(request_.out_shift, game, 1).write(&found.shift, l);
    part(request_.out_room, game, request_.players).write(found.room, l);
  }
};

// Solves a batch of systems in several threads.
template <bool kCorrelated>
void solve_systems(const NesSystem& request) {
  const std::vector<int> counts(request.counts, request.counts + request.players);
  const Shape shape(counts, kCorrelated);
  std::atomic<int64_t> counter{0};
  in_threads(request.threads, (request.games + kLanes<double> - 1) / kLanes<double>,
             [&] { SystemWorker<kCorrelated>(request, shape).run(counter); });
}

}  // namespace nes
