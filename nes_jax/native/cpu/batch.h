// Batches of games: from a request with arrays of payoffs to arrays of answers.
//
// Each game is normalised as in nes_jax/selection.py, solved by the interior-point method of
// method.h in one lane of a thread's vectors, and written out in the units of the request. Games
// that a pass in float32 does not solve are solved again by a pass in float64. When a game is done,
// the next one takes its lane, so that no lane waits for another.
//
// The file is longer than others because reading a game into a lane and writing its answer back
// are two halves of one subject: both need the units, the missing strategies and the lane's state.
#pragma once
#include <atomic>
#include <exception>
#include <mutex>
#include <numeric>
#include <system_error>
#include <thread>

#include "method.h"

extern "C" {

// Largest number of passes of a request.
constexpr int32_t kNesMaxPasses = 4;

// One pass of the method over the games that the passes before it have not solved.
struct NesPass {
  // Type of the numbers: 0 is float32, 1 is float64.
  int32_t wide;
  int32_t max_iterations;
  // Whether the pass goes on from the variables of the passes before it, with all games that can be
  // solved. It needs the arrays of variables.
  int32_t resume;
  // Fields of `Config` in method.h.
  double tolerance, margin, start_dual, start_bound, start_slack, warm_start, relaxation;
};

// A batch of games and the arrays for its answers. All arrays are row-major. The "payoff type" is
// float64 if `wide_payoffs` is set and float32 otherwise; the "answer type" depends on
// `wide_answers` in the same way.
struct NesRequest {
  int64_t games;
  // Numbers of strategies, [players].
  const int32_t* counts;
  int32_t players, correlated, wide_payoffs, wide_answers;
  // Arrays of the payoff type, with the shape for each game. A stride is the distance between the
  // values of two games; it is 0 if all games have the same values.
  const void *payoffs;                                        // [games, players, joint]
  const void *target, *welfare;                               // [joint], or null
  const void *epsilon, *weight;                               // [players], []
  int64_t target_stride, welfare_stride, epsilon_stride, weight_stride;
  // Which strategies exist, [games, sum of counts], or null if all do.
  const uint8_t* strategies;
  // Duals of a warm start in the answer type, [games, duals], or null; and its joint, [games, joint],
  // or null for the joint of these duals, eq. (9).
  const void *start, *start_joint;
  int32_t start_is_normalised, threads;
  double rho, epsilon_max;
  int32_t num_passes;
  NesPass passes[kNesMaxPasses];
  // Answers, of the answer type where they are real numbers.
  void *joint, *out_epsilon, *gap, *residual, *duals, *marginals;
  uint8_t *converged, *repeated;
  int32_t* iterations;
  // Variables of the method at the solution, in normalised units and of the answer type, or null.
  void *variables_joint, *variables_bound, *variables_slack, *variables_duals, *variables_shift,
      *variables_room;
};

}  // extern "C"

namespace nes {

// Dual of a row that is no deviation. Its slack is 1, so that the row does not bind.
constexpr double kIdleDual = 1e-12;
// Constants of nes_jax/selection.py and nes_jax/deviation.py: least probability of a target joint,
// largest ratio of the unit of payoffs to the least regret, and ulps that count as rounding.
constexpr double kTargetFloor = 1e-12, kRobustScale = 4, kNoiseUlps = 8;
// Share of the way to the boundary that a step may go: from a start, as in nes_jax/exact/engine.py,
// and near a solution, where longer steps converge faster.
constexpr double kToBoundary = 0.98, kToBoundaryNear = 0.9999;

// Array of the answer type.
struct Numbers {
  void* at;
  bool wide;

  void set(int64_t index, double x) const {
    if (wide) static_cast<double*>(at)[index] = x;
    else static_cast<float*>(at)[index] = float(x);
  }
  double get(int64_t index) const {
    return wide ? static_cast<double*>(at)[index] : static_cast<float*>(at)[index];
  }
  void fill(int64_t first, int64_t count, double x) const {
    if (at)
      for (int64_t i = first; i < first + count; ++i) set(i, x);
  }
};

// Request with payoffs of type S, and facts about its games.
template <class S>
struct Batch {
  const NesRequest& request;
  std::vector<int> counts;
  // Shape of a game in which all strategies exist.
  Shape whole;
  int64_t num_marginals = 0;
  // Whether constraints are soft (finite rho).
  bool soft;
  // Games that cannot be solved, [games].
  std::vector<uint8_t> invalid;

  explicit Batch(const NesRequest& r)
      : request(r), counts(r.counts, r.counts + r.players), whole(counts, r.correlated != 0),
        soft(!std::isinf(r.rho)), invalid(r.games) {
    for (int count : counts) num_marginals += count;
  }
  Numbers answers(void* array) const { return {array, request.wide_answers != 0}; }
  const S* payoffs(int64_t game) const {
    return static_cast<const S*>(request.payoffs) + game * request.players * whole.size;
  }
  static const S* field(const void* array, int64_t stride, int64_t game) {
    return static_cast<const S*>(array) + stride * game;
  }

  // Whether every player of a game has a strategy that exists.
  bool some_strategies(int64_t game) const {
    if (!request.strategies) return true;
    const uint8_t* exist = request.strategies + game * num_marginals;
    for (int count : counts) {
      if (!std::count(exist, exist + count, 1)) return false;
      exist += count;
    }
    return true;
  }

  // Writes the answers of a game that cannot be solved.
  void mark(int64_t game) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    fill(game, nan, nan, nan, nan);
    const int64_t players = request.players;
    answers(request.out_epsilon).fill(game * players, players, nan);
    answers(request.gap).set(game, nan);
    answers(request.residual).set(game, nan);
    request.converged[game] = request.repeated[game] = 0, request.iterations[game] = 0;
  }

  // Sets the arrays of a game to constants: joint, duals and marginals to `answer`. Among the
  // variables, joint, shift and room become `primal`, bound and slack become `room`, and duals
  // become `multiplier`.
  void fill(int64_t game, double answer, double primal, double room, double multiplier) {
    auto put = [&](void* array, int64_t count, double x) {
      answers(array).fill(game * count, count, x);
    };
    const int64_t size = whole.size, num_duals = whole.num_duals;
    put(request.joint, size, answer), put(request.duals, num_duals, answer);
    put(request.marginals, num_marginals, answer);
    put(request.variables_joint, size, primal), put(request.variables_shift, 1, primal);
    put(request.variables_room, request.players, primal);
    put(request.variables_bound, size, room);
    put(request.variables_slack, num_duals, room);
    put(request.variables_duals, num_duals, multiplier);
  }
};

// The strategies of a game that exist. The game without the other strategies is called reduced.
struct Origin {
  // Strategies of each player that exist.
  std::vector<std::vector<int>> own;
  // Index in the whole game of each joint strategy and of each dual of the reduced game.
  std::vector<int> joint, duals;

  std::vector<int> counts() const {
    std::vector<int> sizes;
    for (auto& list : own) sizes.push_back(int(list.size()));
    return sizes;
  }
  Origin(const Shape& whole, const uint8_t* strategies, bool correlated) {
    joint = {0};
    for (size_t p = 0; p < whole.players.size(); ++p) {
      const int count = whole.players[p].count, first = whole.first_dual[p];
      std::vector<int> list, longer;
      for (int i = 0; i < count; ++i)
        if (!strategies || strategies[i]) list.push_back(i);
      if (strategies) strategies += count;
      for (int e : joint)
        for (int i : list) longer.push_back(e * count + i);
      joint = longer;
      for (int i : list) {
        if (!correlated) duals.push_back(first + i);
        else
          for (int k : list) duals.push_back(first + i * count + k);
      }
      own.push_back(list);
    }
  }
};

// Solver of games of one shape in the lanes of a `Method`. Each thread has one.
template <class T, int W, bool kCorrelated, class S>
class Worker {
 public:
  using O = Lanes<T, W>;
  using V = typename O::V;
  using M = typename O::M;
  // Payoffs are normalised in their own type, and kPart games fit into a vector of that type.
  static constexpr int kPart = std::min(W, kLanes<S>);
  using P = Lanes<S, kPart>;
  using VS = typename P::V;
  using MS = typename P::M;

  Worker(Batch<S>& batch, const Shape& shape, const NesPass& pass, bool first, int64_t games)
      : batch_(batch), request_(batch.request), shape_(shape), pass_(pass), first_(first) {
    const Config config{pass.tolerance, pass.margin, pass.start_dual, pass.start_bound,
                        pass.start_slack, pass.warm_start, pass.max_iterations,
                        batch.soft ? 0 : pass.relaxation,
                        pass.resume ? kToBoundaryNear : kToBoundary};
    method_.set_up(shape, config, games, batch.soft, request_.target, request_.welfare);
    raw_.assign(size_t(W) * request_.players * shape.size + 64 / sizeof(S), 0);
    best_.assign(size_t(shape.size) + 1, VS{});
    for (int l = 0; l < W; ++l) game_[l] = -1;
  }

  // Takes games from the list, `chunk` at a time, until all are solved. Threads share the counter.
  void run(const std::vector<int64_t>& games, std::atomic<int64_t>& counter, int64_t chunk) {
    const FlushSubnormals flush;
    const int refill = kCorrelated ? 1 : std::max(1, W / 2);
    int64_t next = 0, end = 0;
    bool more = true;
    for (;;) {
      int idle = 0;
      for (int l = 0; l < W; ++l) {
        if (game_[l] >= 0 && !method_.running(l)) unload(l), game_[l] = -1;
        idle += game_[l] < 0;
      }
      if (more && idle >= refill) {
        M fresh{};
        for (int l = 0; l < W && more; ++l) {
          if (game_[l] >= 0) continue;
          if (next >= end) {
            next = counter.fetch_add(chunk), end = std::min(next + chunk, int64_t(games.size()));
            if (next >= end) { more = false; break; }
          }
          load(l, games[next++]), fresh[l] = -1;
        }
        begin(fresh);
        // Some of the fresh games may be done already, or invalid.
        continue;
      }
      if (idle == W) break;
      method_.step(occupied());
    }
  }

 private:
  Batch<S>& batch_;
  const NesRequest& request_;
  const Shape& shape_;
  const NesPass& pass_;
  // Whether this is the first pass.
  const bool first_;
  Method<T, W, kCorrelated> method_;
  // Game in each lane, or -1.
  int64_t game_[W];
  // Strategies that exist in each lane's game. Empty if all strategies of all games exist.
  std::vector<Origin> origin_;
  // For each lane: the unit of each player's payoffs; the factor of the duals, which is
  // max(1, welfare weight) or 1 for an infinite weight; the largest epsilon in normalised units.
  double scale_[W][kMaxPlayers], stretch_[W], epsilon_max_[W];
  // Payoffs of the games in the lanes, before normalisation.
  std::vector<S> raw_;
  // Scratch: best payoff of a player against each play of the others.
  std::vector<VS> best_;

  // Mask of the lanes that have games.
  M occupied() const {
    M mask{};
    for (int l = 0; l < W; ++l) mask[l] = game_[l] >= 0 ? -1 : 0;
    return mask;
  }
  // Numbers of one lane in an array of vectors, W apart.
  static T* lane(V* at, int l) { return reinterpret_cast<T*>(at) + l; }
  // Address in `raw_` that is aligned to a vector.
  S* raw() {
    return reinterpret_cast<S*>((reinterpret_cast<uintptr_t>(raw_.data()) + 63) / 64 * 64);
  }

  // Copies the numbers of a game into a lane. `begin` completes the work, for all fresh lanes at
  // once.
  void load(int l, int64_t game) {
    game_[l] = game;
    const int players = request_.players, size = shape_.size;
    const Origin* origin = nullptr;
    if (request_.strategies) {
      origin_.resize(W, Origin(batch_.whole, nullptr, kCorrelated));
      origin_[l] = Origin(batch_.whole, request_.strategies + game * batch_.num_marginals,
                          kCorrelated);
      origin = &origin_[l];
    }
    const S* from = batch_.payoffs(game);
    S* to = raw() + size_t(l / kPart) * players * size * kPart + l % kPart;
    for (int p = 0; p < players; ++p, from += batch_.whole.size)
      for (int e = 0; e < size; ++e, to += kPart) *to = from[origin ? origin->joint[e] : e];
    if (request_.target) {
      const S* target = batch_.field(request_.target, request_.target_stride, game);
      auto value = [&](int e) {
        return std::max<S>(target[origin ? origin->joint[e] : e], S(kTargetFloor));
      };
      S sum = 0;
      for (int e = 0; e < size; ++e) sum += value(e);
      for (int e = 0; e < size; ++e) lane(method_.next.joint, l)[e * W] = T(value(e) / sum);
    }
    double weight = 0;
    if (request_.welfare) {
      weight = *batch_.field(request_.weight, request_.weight_stride, game);
      const S* welfare = batch_.field(request_.welfare, request_.welfare_stride, game);
      auto value = [&](int e) { return double(welfare[origin ? origin->joint[e] : e]); };
      double top = 0, mean = 0, square = 0, spread = 0;
      for (int e = 0; e < size; ++e) top = std::max(top, std::abs(value(e)));
      const double unit = top > 0 ? 1 / top : 1;
      for (int e = 0; e < size; ++e) mean += value(e) * unit / size;
      for (int e = 0; e < size; ++e) {
        const double x = value(e) * unit - mean;
        square += x * x, spread = std::max(spread, std::abs(x));
      }
      const bool varies = spread > kNoiseUlps * std::numeric_limits<S>::epsilon();
      const double omega = std::isinf(weight) ? 1 : weight / std::max(weight, 1.0);
      const double factor = varies ? omega / std::sqrt(square / size) : 0;
      for (int e = 0; e < size; ++e)
        lane(method_.welfare, l)[e * W] = T((value(e) * unit - mean) * factor);
    }
    stretch_[l] = std::isinf(weight) ? 1 : std::max(weight, 1.0);
    const T temperature = T(1 / std::max(weight, 1.0));
    method_.temperature[l] = temperature;
    method_.safe_temperature[l] = std::max(temperature, std::numeric_limits<T>::min());
  }

  // Normalises the games that were just loaded, and starts the method on them.
  void begin(M fresh) {
    M valid{};
    for (int part = 0; part < W / kPart; ++part) {
      bool any = false;
      for (int l = 0; l < kPart; ++l) any |= fresh[part * kPart + l] != 0;
      if (any) normalise(part, fresh);
    }
    const bool warm = first_ && request_.start, with_joint = warm && request_.start_joint;
    for (int l = 0; l < W; ++l) {
      if (!fresh[l]) continue;
      if (batch_.invalid[game_[l]]) {
        batch_.mark(game_[l]), game_[l] = -1;
        continue;
      }
      valid[l] = -1;
      set_limits(l);
      if (warm) warm_duals(l);
    }
    method_.even_log_target = O::all(T(-std::log(double(shape_.size))));
    if (request_.target)
      for (int e = 0; e < shape_.size; ++e)
        method_.log_target[e] = fresh ? O::log(method_.next.joint[e]) : method_.log_target[e];
    // Until here, `next.joint` held the target.
    for (int l = 0; l < W; ++l)
      if (with_joint && valid[l]) warm_joint(l);
    if (!pass_.resume) return method_.start(valid, occupied(), warm, with_joint);
    for (int l = 0; l < W; ++l)
      if (valid[l]) load_variables(l);
    method_.resume(valid, occupied());
  }

  // Normalises the payoffs of `kPart` lanes, as `problem` does in nes_jax/selection.py.
  void normalise(int part, M fresh) {
    const int players = request_.players, size = shape_.size;
    const VS* payoffs = reinterpret_cast<const VS*>(raw()) + size_t(part) * players * size;
    const S size_inverse = S(1) / size;
    MS mine;
    for (int l = 0; l < kPart; ++l) mine[l] = fresh[part * kPart + l] ? -1 : 0;
    VS check{};
    for (int p = 0; p < players; ++p, payoffs += size) {
      const auto& player = shape_.players[p];
      VS top{}, mean{}, square{}, spread{};
      for (int e = 0; e < size; ++e) {
        top = P::max(top, P::abs(payoffs[e])), check += payoffs[e] - payoffs[e];
      }
      // Payoffs are scaled by a power of two, so that their squares are finite. The scale is a
      // product of two powers that are finite themselves.
      const MS unit = top > S(0) ? P::exponent(top) : MS{};
      const VS first = P::power_of_two(-(unit >> 1)), second = P::power_of_two((unit >> 1) - unit);
      auto value = [&](int e) { return payoffs[e] * first * second; };
      top = top * first * second;
      for (int e = 0; e < size; ++e) mean += value(e);
      mean *= size_inverse;
      for (int e = 0; e < size; ++e) {
        const VS x = value(e) - mean;
        square += x * x, spread = P::max(spread, P::abs(x));
      }
      const MS varies = spread > top * S(kNoiseUlps * P::kEpsilon);
      VS scale = varies ? P::sqrt(square * size_inverse) : VS{};
      VS factor, offset = mean, largest_best{}, largest_regret{};
      // Best payoff against each play of the others.
      VS* best = best_.data();
      for (int r = 0; r < player.others; ++r) {
        VS x = value(player.base[r]);
        for (int i = 1; i < player.count; ++i)
          x = P::max(x, value(player.base[r] + i * player.stride));
        best[r] = x, largest_best = P::max(largest_best, P::abs(x));
      }
      VS least = P::all(P::kInfinity);
      for (int i = 0; i < player.count; ++i) {
        VS worst{};
        for (int r = 0; r < player.others; ++r)
          worst = P::max(worst, best[r] - value(player.base[r] + i * player.stride));
        largest_regret = P::max(largest_regret, worst);
        const MS counts = worst > largest_best * S(kNoiseUlps * P::kEpsilon);
        least = P::min(least, counts ? worst : P::all(P::kInfinity));
      }
      if (batch_.soft) {
        factor = scale > S(0) ? P::reciprocal(scale) : VS{};
      } else {
        scale = P::min(scale, least < P::kInfinity ? least * S(kRobustScale) : VS{});
        const MS exponent = P::nearest_exponent(scale > S(0) ? scale : P::all(1));
        factor = scale > S(0) ? P::power_of_two(-exponent) : VS{};
        scale = scale > S(0) ? P::power_of_two(exponent) : VS{};
        offset = VS{};
      }
      for (int l = 0; l < kPart; ++l) {
        if (!mine[l]) continue;
        scale_[part * kPart + l][p] = std::ldexp(double(scale[l]), int(unit[l]));
        method_.binding[p][part * kPart + l] = largest_regret[l] > 0 && scale[l] > 0 ? 1 : 0;
      }
      V* out = Method<T, W, kCorrelated>::kCentres ? method_.given[p] : method_.operate.payoffs[p];
      // In float32, payoffs are replaced by regrets. Their digits are exact also where payoffs are
      // large.
      constexpr bool as_regrets = sizeof(T) == 4;
      for (int r = 0; r < player.others; ++r) {
        if (as_regrets) offset = best[r];
        for (int i = 0, e = player.base[r]; i < player.count; ++i, e += player.stride)
          put(out + e, part, mine, (value(e) - offset) * factor);
      }
    }
    for (int l = 0; l < kPart; ++l)
      if (mine[l] && !(check[l] == 0)) batch_.invalid[game_[part * kPart + l]] = 1;
  }

  // Writes the numbers of `kPart` lanes, those in the mask, in the method's type.
  static void put(V* at, int part, MS mine, VS x) {
    using Narrow = typename Lanes<T, kPart>::V;
    using Mask = typename Lanes<T, kPart>::M;
    Narrow* to = reinterpret_cast<Narrow*>(at) + part;
    const Mask keep = __builtin_convertvector(mine, Mask);
    *to = keep ? __builtin_convertvector(x, Narrow) : *to;
  }

  // Sets the limits of the constraints, and the rooms of soft ones, for one lane, as nes_jax/exact
  // does.
  void set_limits(int l) {
    const S* epsilon = batch_.field(request_.epsilon, request_.epsilon_stride, game_[l]);
    const double z = request_.epsilon_max * std::sqrt(double(shape_.size));
    epsilon_max_[l] = z;
    double tau_rho = method_.temperature[l] * request_.rho;
    method_.rho[l] = batch_.soft ? T(tau_rho) : T(1);
    for (int p = 0; p < request_.players; ++p) {
      const double scale = scale_[l][p], given = epsilon[p];
      double wanted = scale > 0 ? given / scale : double((given > 0) - (given < 0));
      if (batch_.soft) {
        wanted = std::max(-z, std::min(wanted, z * (1 - 1e-6)));
        method_.limit[p][l] = T(z), method_.idle_limit[p][l] = T(3 * z);
        method_.binding[p][l] = 1, method_.log_room[p][l] = T(std::log(z - wanted));
        continue;
      }
      // A row of zeros never binds, but would force its slack to zero. Its limit is therefore
      // raised.
      const bool binds = method_.binding[p][l] != 0 || wanted < 0;
      method_.binding[p][l] = binds;
      method_.limit[p][l] = binds ? T(wanted + pass_.relaxation) : T(1);
    }
  }

  // Copies the duals of a warm start into one lane, in normalised units.
  void warm_duals(int l) {
    const Numbers start = batch_.answers(const_cast<void*>(request_.start));
    const int64_t first = game_[l] * batch_.whole.num_duals;
    for (int p = 0, d = 0; p < request_.players; ++p) {
      const double factor = request_.start_is_normalised ? 1 : scale_[l][p] / stretch_[l];
      for (; d < shape_.first_dual[p + 1]; ++d) {
        const int from = request_.strategies ? origin_[l].duals[d] : d;
        lane(method_.next.duals, l)[d * W] = T(start.get(first + from) * factor);
      }
    }
  }

  // Copies the joint of a warm start into one lane.
  void warm_joint(int l) {
    const Numbers start = batch_.answers(const_cast<void*>(request_.start_joint));
    const int64_t first = game_[l] * batch_.whole.size;
    for (int e = 0; e < shape_.size; ++e) {
      const int from = request_.strategies ? origin_[l].joint[e] : e;
      lane(method_.next.joint, l)[e * W] = T(start.get(first + from));
    }
  }

  // Calls move(array, numbers, count, stride, indices) for each array of variables of a request and
  // the numbers of a point that belong to it. Number i is at indices[i] in the game's part of the
  // array, or at i if there are no indices. The stride is the length of a game's part.
  template <class F>
  void each_variable(typename Method<T, W, kCorrelated>::Point& point, const Origin* origin,
                     F move) {
    const auto& whole = batch_.whole;
    const auto* to_joint = origin ? &origin->joint : nullptr;
    const auto* to_duals = origin ? &origin->duals : nullptr;
    const int players = request_.players;
    move(request_.variables_joint, point.joint, shape_.size, whole.size, to_joint);
    move(request_.variables_bound, point.bound, shape_.size, whole.size, to_joint);
    move(request_.variables_slack, point.slack, shape_.num_duals, whole.num_duals, to_duals);
    move(request_.variables_duals, point.duals, shape_.num_duals, whole.num_duals, to_duals);
    move(request_.variables_shift, &point.shift, 1, 1, nullptr);
    move(request_.variables_room, point.room, players, players, nullptr);
  }

  // Copies the variables of an earlier pass into one lane of `next`.
  void load_variables(int l) {
    auto get = [&](void* array, V* to, int count, int64_t stride, const std::vector<int>* from) {
      const Numbers in = batch_.answers(array);
      for (int i = 0; i < count; ++i)
        lane(to, l)[i * W] = T(in.get(game_[l] * stride + (from ? (*from)[i] : i)));
    };
    each_variable(method_.next, request_.strategies ? &origin_[l] : nullptr, get);
  }

  // Writes the answer of one lane's game, unless an earlier pass had a smaller residual.
  void unload(int l) {
    const int64_t game = game_[l], players = request_.players;
    const double error = method_.best_error[l];
    const Numbers residual = batch_.answers(request_.residual);
    if (!pass_.resume) request_.repeated[game] = !first_;
    if (first_) request_.iterations[game] = 0;
    request_.iterations[game] += int(method_.iterations[l]);
    if (!first_ && error > residual.get(game)) return;
    const bool now = method_.best_is_now[l] != 0;
    auto& point = now ? method_.now : method_.best;
    const V* worst = now ? method_.worst : method_.best_worst;
    const T inverse = T(1) / (now ? method_.mass[l] : method_.best_mass[l]);
    const Origin* origin = request_.strategies ? &origin_[l] : nullptr;
    const auto& whole = batch_.whole;
    // Strategies that do not exist have probability 0, and their rows do not bind.
    if (origin) batch_.fill(game, 0, 0, 1, kIdleDual);

    const Numbers joint = batch_.answers(request_.joint);
    const T* mine = lane(point.joint, l);
    if (!origin && !joint.wide) {  // This case is the most frequent.
      float* out = static_cast<float*>(request_.joint) + game * whole.size;
      for (int e = 0; e < shape_.size; ++e) out[e] = float(mine[e * W] * inverse);
    } else {
      for (int e = 0; e < shape_.size; ++e)
        joint.set(game * whole.size + (origin ? origin->joint[e] : e), mine[e * W] * inverse);
    }
    const Numbers marginals = batch_.answers(request_.marginals);
    int64_t at = game * batch_.num_marginals;
    for (auto& player : shape_.players) {
      const auto p = &player - shape_.players.data();
      for (int i = 0; i < player.count; ++i) {
        T sum = 0;
        for (int r = 0; r < player.others; ++r)
          sum += mine[(player.base[r] + i * player.stride) * W];
        marginals.set(at + (origin ? origin->own[p][i] : i), sum * inverse);
      }
      at += batch_.counts[p];
    }
    double factor[kMaxPlayers], gap = 0;
    const Numbers epsilon = batch_.answers(request_.out_epsilon);
    const S* given = batch_.field(request_.epsilon, request_.epsilon_stride, game);
    for (int p = 0; p < players; ++p) {
      const double scale = scale_[l][p];
      factor[p] = scale > 0 ? double(method_.binding[p][l]) * stretch_[l] / scale : 0;
      gap += std::max(double(worst[p][l]), 0.0) * scale;
      const double room = epsilon_max_[l] - double(point.room[p][l]);
      epsilon.set(game * players + p, batch_.soft ? room * scale : double(given[p]));
    }
    const Numbers duals = batch_.answers(request_.duals);
    method_.each_row([&](int p, int d, bool idle) {
      duals.set(game * whole.num_duals + (origin ? origin->duals[d] : d),
                idle ? 0 : lane(point.duals, l)[d * W] * factor[p]);
    });
    residual.set(game, error);
    batch_.answers(request_.gap).set(game, gap);
    request_.converged[game] = residual.get(game) <= request_.passes[0].tolerance;

    if (!request_.variables_joint) return;
    auto put = [&](void* array, V* from, int count, int64_t stride, const std::vector<int>* to) {
      const Numbers out = batch_.answers(array);
      for (int i = 0; i < count; ++i)
        out.set(game * stride + (to ? (*to)[i] : i), lane(from, l)[i * W]);
    };
    each_variable(point, origin, put);
  }
};

// Runs work() in as many threads as there are parts of the work, but in no more than `most`.
template <class F>
void in_threads(int64_t most, int64_t parts, F work) {
  std::exception_ptr failure;
  std::mutex guard;
  auto guarded = [&] {
    try {
      work();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      failure = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  try {
    for (int64_t k = 1; k < std::min(most, parts); ++k) others.emplace_back(guarded);
  } catch (const std::system_error&) {
    // The system starts no more threads. The threads that exist do all the work.
  }
  guarded();
  for (auto& thread : others) thread.join();
  if (failure) std::rethrow_exception(failure);
}

// Solves games of one shape in several threads.
template <class T, bool kCorrelated, class S>
void solve_group(Batch<S>& batch, const std::vector<int64_t>& games, const Shape& shape,
                 const NesPass& pass, bool first) {
  constexpr int W = kLanes<T>;
  std::atomic<int64_t> counter{0};
  const int64_t count = int64_t(games.size()), parts = (count + W - 1) / W;
  const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(batch.request.threads, parts));
  const int64_t chunk = std::max<int64_t>(1, std::min<int64_t>(W, count / (4 * threads)));
  in_threads(threads, parts, [&] {
    Worker<T, W, kCorrelated, S>(batch, shape, pass, first, count).run(games, counter, chunk);
  });
}

// Solves games in one pass.
template <bool kCorrelated, class S>
void solve_pass(Batch<S>& batch, std::vector<int64_t>& games, const NesPass& pass,
                bool first) {
  auto solve = [&](const std::vector<int64_t>& group, const Shape& shape) {
    if (pass.wide) solve_group<double, kCorrelated>(batch, group, shape, pass, first);
    else solve_group<float, kCorrelated>(batch, group, shape, pass, first);
  };
  if (!batch.request.strategies) return solve(games, batch.whole);
  // Games are grouped by their shape without the strategies that do not exist.
  std::vector<std::pair<std::vector<int>, int64_t>> keyed;
  for (int64_t game : games) {
    const uint8_t* exist = batch.request.strategies + game * batch.num_marginals;
    std::vector<int> counts;
    for (int count : batch.counts) {
      counts.push_back(int(std::accumulate(exist, exist + count, 0)));
      exist += count;
    }
    keyed.emplace_back(counts, game);
  }
  std::sort(keyed.begin(), keyed.end());
  for (size_t i = 0; i < keyed.size();) {
    std::vector<int64_t> group;
    const auto counts = keyed[i].first;
    for (; i < keyed.size() && keyed[i].first == counts; ++i) group.push_back(keyed[i].second);
    solve(group, Shape(counts, kCorrelated));
  }
}

// Solves a batch. Returns the number of games that are marked as invalid, because a payoff is not
// finite or a player has no strategy.
template <bool kCorrelated, class S>
int64_t solve_batch(const NesRequest& request) {
  Batch<S> batch(request);
  std::vector<int64_t> games;
  for (int64_t game = 0; game < request.games; ++game) {
    if (batch.some_strategies(game)) games.push_back(game);
    else batch.invalid[game] = 1, batch.mark(game);
  }
  const std::vector<int64_t> all = games;
  for (int k = 0; k < request.num_passes; ++k) {
    const NesPass& pass = request.passes[k];
    std::vector<int64_t> left;
    for (int64_t game : pass.resume ? all : games)
      if (!batch.invalid[game] && (k == 0 || pass.resume || !request.converged[game]))
        left.push_back(game);
    games.swap(left);
    if (!games.empty()) solve_pass<kCorrelated>(batch, games, pass, k == 0);
  }
  return std::count(batch.invalid.begin(), batch.invalid.end(), 1);
}

}  // namespace nes
