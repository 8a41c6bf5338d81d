// Interior-point method of nes_jax/exact on games of one shape, with one game in each lane.
//
// The names are those of nes_jax/exact, which has the equations and the reasons. There is one
// difference: `stationary` is the stationarity without its term -z, where z is the bound. The
// right-hand sides of the Newton system add z to the stationarity, and do not need z this way.
//
// The whole Newton step is one file because all its parts work on the same state, and each of them
// is a short loop over that state.
#pragma once
#include <cstdlib>
#include <new>
#include <utility>

#include "deviation.h"
#include "lone.h"

namespace nes {

// Parameters of the method, as in nes_jax/exact.
struct Config {
  double tolerance, margin, start_dual, start_bound, start_slack, warm_start;
  int max_iterations;
  // Amount by which hard limits are raised, in normalised units.
  double relaxation;
  // Share of the way to the boundary that a step may go.
  double to_boundary;
};

// State and steps of the method, for W games of numbers of type T.
template <class T, int W, bool kCorrelated>
struct Method {
  using O = Lanes<T, W>;
  using V = typename O::V;
  using M = typename O::M;
  using Gains = std::conditional_t<kCorrelated, Correlated<T, W>, Coarse<T, W>>;

  // Least value of a positive variable; and constants of nes_jax/exact/start.py: factor from the
  // violation of constraints at a warm start to its distance from the boundary, and least product of
  // a slack and its dual, over that of a cold start at this distance.
  static constexpr T kTiny = T(1e-30), kWarmth = T(0.3), kCentring = T(1.0 / 30);
  // Relative change of a solution by one round of refinement below which refinement ends.
  static constexpr double kRefined = 1e-11;
  // Growth of the merit at which a step is refused, predictor step below which the second-order
  // term is reduced, and largest damping.
  static constexpr T kMaxGrowth = T(1e4), kShortStep = T(0.1), kStrongest = T(1e-2);
  // Factor of the damping after a refused step, and number of refused steps in a row that end a
  // game.
  static constexpr T kDampingGrowth = T(100), kMaxRefused = T(5);
  // Usual damping, and ulps of a row's diagonal that are added to its slack.
  static constexpr T kDamping = T(0.5) * O::kEpsilon, kRowUlps = O::kEpsilon;
  // Matrices are factored one by one for CEs that have at least kLoneSize joint strategies, and for
  // CEs of so few games that at most one lane in kLoneLanes has a game. The choice depends on the
  // batch alone, so that answers do not depend on the number of threads.
  static constexpr int kLoneSize = 400, kLoneLanes = 4;
  // Whether payoffs are centred at every step, which CCEs in float64 need.
  static constexpr bool kCentres = !kCorrelated && sizeof(T) == 8;

  // Variables of the method.
  struct Point {
    V *joint, *bound, *slack, *duals, shift, room[kMaxPlayers];
  };
  // Residuals of the optimality conditions.
  struct Residuals {
    V *stationary, *feasible, mass, room[kMaxPlayers];
  };

  const Shape* shape = nullptr;
  int players = 0, size = 0, num_duals = 0;
  bool soft = false, has_target = false, has_welfare = false;
  Config config;

  // The program to be solved.
  Gains operate;
  // Payoffs before they are centred, if they are centred at every step.
  V *given[kMaxPlayers];
  V *log_target, *welfare, even_log_target, temperature, safe_temperature;
  V limit[kMaxPlayers], binding[kMaxPlayers], idle_limit[kMaxPlayers], rho, log_room[kMaxPlayers];

  // The state. `next` holds the direction of a step first, and then the point after the step.
  Point now, next, best;
  Residuals now_residuals, next_residuals;
  V error, merit, damping, refused, best_error, iterations;
  // Largest gain of each player above epsilon, at the three points.
  V worst[kMaxPlayers], next_worst[kMaxPlayers], best_worst[kMaxPlayers];
  // Error and merit of `next`, and sums of the joints of `now` and `best`.
  V next_error, next_merit, mass, best_mass;
  // Whether `now` is the best point so far. Otherwise it is in `best`.
  M best_is_now;
  // Whether the payoffs must be centred for `now` before the next step.
  bool recentre = false;

  // The Newton system.
  V *weights, *inverse_joint, *inverse_duals, *border, *ratios, *ones, *gain, *scratch;
  V *joint_aim, *slack_aim, *rays[kMaxPlayers];
  V inverse_total, room_weights[kMaxPlayers], coupling[kMaxPlayers];
  Cholesky<T, W> matrix;
  V* packed;
  // Whether matrices are formed and factored one by one (lone.h).
  bool by_rows = false;
  // Number of matrices for which there is memory in that case.
  int most_lone = W;
  // Lanes that have games in that case.
  std::vector<int> lone;

  Method() = default;
  Method(const Method&) = delete;
  Method& operator=(const Method&) = delete;
  ~Method() { std::free(memory_); }

  // Prepares the method for games of one shape. All lanes are without a game at first.
  void set_up(const Shape& of, const Config& with, int64_t games, bool soft_, bool target,
              bool welfare_) {
    by_rows = kCorrelated && (of.size >= kLoneSize || games * kLoneLanes <= W);
    most_lone = int(std::min<int64_t>(W, games));
    shape = &of, config = with, soft = soft_, has_target = target, has_welfare = welfare_;
    players = int(of.players.size()), size = of.size, num_duals = of.num_duals;
    Arena<V> needed(nullptr);
    lay_out(needed);
    if (needed.used() > capacity_) {
      std::free(memory_);
      memory_ = (V*)std::aligned_alloc(4096, (needed.used() * sizeof(V) + 4095) / 4096 * 4096);
      capacity_ = memory_ ? needed.used() : 0;
      if (!memory_) throw std::bad_alloc();
    }
    // Lanes without a game take part in all operations. The initial values keep their numbers
    // finite.
    for (size_t i = 0; i < needed.used(); ++i) memory_[i] = O::all(1);
    Arena<V> arena(memory_);
    lay_out(arena);
    for (int p = 0; p < players; ++p) {
      for (int e = 0; e < size; ++e) operate.payoffs[p][e] = V{};
      if (kCentres)
        for (int e = 0; e < size; ++e) given[p][e] = V{};
      limit[p] = binding[p] = idle_limit[p] = O::all(1), log_room[p] = V{};
      now.room[p] = next.room[p] = O::all(1);
      worst[p] = next_worst[p] = best_worst[p] = V{};
      now_residuals.room[p] = next_residuals.room[p] = room_weights[p] = coupling[p] = V{};
    }
    now.shift = next.shift = now_residuals.mass = V{};
    temperature = safe_temperature = rho = O::all(1), even_log_target = V{};
    error = merit = best_error = refused = iterations = V{};
    damping = O::all(kDamping), mass = best_mass = O::all(1), best_is_now = M{} - 1;
  }

  // Whether a lane's game takes another step.
  bool running(int lane) const {
    return error[lane] > T(config.margin * config.tolerance) && refused[lane] < kMaxRefused &&
           iterations[lane] < config.max_iterations;
  }

  // Takes one predictor-corrector step in all lanes. The lanes in `active` have games.
  void step(M active) {
    if (kCentres && recentre) centre(now.duals);
    lone.clear();
    for (int l = 0; by_rows && l < W; ++l)
      if (active[l]) lone.push_back(l);
    newton();
    V primal, bounds;
    direction<false>();
    lengths<false>(primal, bounds);
    aim(O::reciprocal(O::max(O::all(1), O::max(primal, bounds))));
    direction<true>();
    lengths<true>(primal, bounds);
    advance(primal, bounds);
    measure();
    const M sound = (next_merit < merit * kMaxGrowth) | (next_error < error);
    damping = sound ? O::max(damping * (1 / kDampingGrowth), O::all(kDamping))
                    : O::min(damping * kDampingGrowth, O::all(kStrongest));
    refused = sound ? V{} : refused + T(1);
    iterations += T(1);
    const M better = sound & (next_error < best_error);
    keep_best(active & sound & best_is_now & ~better);
    best_is_now = sound ? better : best_is_now;
    best_error = better ? next_error : best_error;
    recentre = move(sound, active);
  }

  // Sets the starting points of the lanes `fresh`, whose programs are set. The lanes `occupied` are
  // these and the lanes with other games. A warm start uses the duals in `next.duals`, and the joint
  // in `next.joint` if `with_joint` is set.
  void start(M fresh, M occupied, bool warm, bool with_joint) {
    const V share = O::all(T(1) / size);
    V bound = O::all(T(config.start_bound)), slack = O::all(T(config.start_slack));
    V least = O::all(T(config.start_dual)), product{}, total;
    if (kCentres) {
      for (int d = 0; d < num_duals; ++d) ratios[d] = O::all(1);
      centre(ratios);
    }
    if (!warm) {
      for (int e = 0; e < size; ++e)
        next.joint[e] = has_target ? T(0.9) * O::exp(log_target[e]) + T(0.1) * share : share;
      for (int d = 0; d < num_duals; ++d) next.duals[d] = least;
    } else {
      if (!with_joint) start_joint();
      operate.gains(next.joint, gain, total);
      V most = O::all(-O::kInfinity);
      each_row([&](int p, int d, bool idle) {
        most = O::max(most, gain[d] - (idle ? idle_limit[p] : limit[p]));
      });
      const V factor = O::min(O::max(most * kWarmth, O::all(T(config.warm_start))), O::all(1));
      product = factor * slack * least * kCentring;
      bound *= factor, slack *= factor, least *= factor;
      for (int e = 0; e < size; ++e) next.joint[e] = O::max(next.joint[e], factor * bound * share);
    }
    operate.gains(next.joint, gain, total);
    if (soft) start_room(bound, slack, least);
    for (int e = 0; e < size; ++e) next.bound[e] = bound * share * O::reciprocal(next.joint[e]);
    const V root = O::sqrt(product);
    each_row([&](int p, int d, bool idle) {
      const V room = soft ? next.room[p] : V{};
      const V left = (idle ? idle_limit[p] : limit[p]) - gain[d] - room, dual = next.duals[d];
      if (warm) {
        next.slack[d] = O::max(left, product * O::reciprocal(O::max(dual, root)));
        next.duals[d] = O::max(dual, product * O::reciprocal(O::max(left, root)));
      } else {
        next.slack[d] = O::max(left, slack);
      }
    });
    next.shift = V{};
    resume(fresh, occupied);
  }

  // Starts the lanes `fresh` at the point in `next`, as `start` does.
  void resume(M fresh, M occupied) {
    measure();
    damping = fresh ? O::all(kDamping) : damping;
    refused = fresh ? V{} : refused, iterations = fresh ? V{} : iterations;
    best_error = fresh ? next_error : best_error, best_is_now = best_is_now | fresh;
    move(fresh, occupied);
    // At this place the payoffs are centred for `next`.
    recentre = kCentres;
  }

  // Solves the Newton system at `now` without damping, for right sides that are given:
  //
  //   (tau + bound) / joint x.joint + A' x.duals + x.shift = sides.stationary
  //   A x.joint - slack / duals x.duals + x.room           = sides.feasible
  //   sum(x.joint)                                         = sides.mass
  //   rho / room x.room + sum(x.duals)                     = sides.room      with soft constraints
  //
  // The solution is in `best` on return, and `sides` is `next_residuals`. The lanes in `active` have
  // games. Refinement makes up for the digits that the factors lose where rows bind. It ends when it
  // changes no joint any more, and after so many rounds.
  void solve_given(M active, int refinements) {
    lone.clear();
    for (int l = 0; by_rows && l < W; ++l)
      if (active[l]) lone.push_back(l);
    damping = V{};
    newton();
    const Residuals& sides = next_residuals;
    Residuals& left = now_residuals;
    for (int e = 0; e < size; ++e) left.stationary[e] = sides.stationary[e], best.joint[e] = V{};
    for (int d = 0; d < num_duals; ++d) left.feasible[d] = sides.feasible[d], best.duals[d] = V{};
    left.mass = -sides.mass, best.shift = V{};
    for (int p = 0; p < players; ++p) left.room[p] = -sides.room[p], best.room[p] = V{};
    for (int round = 0;; ++round) {
      auto right_side = [&](int e) { return left.stationary[e]; };
      auto row_side = [&](int d) { return left.feasible[d]; };
      if constexpr (kCorrelated) direction_joint(right_side, row_side);
      else direction_dual(right_side, row_side);
      V moved{}, length{};
      for (int e = 0; e < size; ++e) {
        best.joint[e] += next.joint[e];
        moved += O::abs(next.joint[e]), length += O::abs(best.joint[e]);
      }
      for (int d = 0; d < num_duals; ++d) best.duals[d] += next.duals[d];
      best.shift += next.shift;
      for (int p = 0; p < players; ++p) best.room[p] += next.room[p];
      const M left_over = active & (moved > length * T(kRefined));
      bool any = false;
      for (int l = 0; l < W; ++l) any |= left_over[l] != 0;
      if (!any || round == refinements) return;
      subtract_product();
    }
  }

  // Calls row(player, dual, idle) for every dual, where an idle row is no deviation.
  template <class F>
  void each_row(F row) const {
    for (int p = 0, d = 0; p < players; ++p) {
      const int count = shape->players[p].count;
      if constexpr (kCorrelated) {
        for (int i = 0; i < count; ++i)
          for (int k = 0; k < count; ++k, ++d) row(p, d, i == k);
      } else {
        for (int i = 0; i < count; ++i, ++d) row(p, d, false);
      }
    }
  }

 private:
  V* memory_ = nullptr;
  size_t capacity_ = 0;

  // Takes the memory of all arrays from an arena.
  void lay_out(Arena<V>& arena) {
    operate.shape = shape;
    operate.lay_out(arena);
    if (kCentres)
      for (int p = 0; p < players; ++p) given[p] = arena.take(size);
    for (V** at : {&weights, &inverse_joint, &joint_aim, &scratch}) *at = arena.take(size);
    for (Point* point : {&now, &next, &best}) {
      point->joint = arena.take(size), point->bound = arena.take(size);
      point->slack = arena.take(num_duals), point->duals = arena.take(num_duals);
    }
    for (Residuals* r : {&now_residuals, &next_residuals})
      r->stationary = arena.take(size), r->feasible = arena.take(num_duals);
    for (V** at : {&inverse_duals, &gain, &slack_aim, &ratios}) *at = arena.take(num_duals);
    log_target = has_target ? arena.take(size) : nullptr;
    welfare = has_welfare ? arena.take(size) : nullptr;
    border = kCorrelated ? nullptr : arena.take(num_duals);
    ones = kCorrelated ? arena.take(size) : nullptr;
    if (kCorrelated && soft)
      for (int p = 0; p < players; ++p) rays[p] = arena.take(size);
    matrix.side = kCorrelated ? size : num_duals;
    matrix.ld = Cholesky<T, W>::leading(matrix.side);
    const int lone_ld = LoneCholesky<T>::leading(matrix.side);
    matrix.inverse = arena.take(matrix.side);
    matrix.a = arena.take(by_rows ? (matrix.side * lone_ld / W + 1) * most_lone
                                  : matrix.side * matrix.ld);
    packed = arena.take(LoneCholesky<T>::kBlock * (matrix.side / W + LoneCholesky<T>::kBlock));
  }

  // Logarithm of the target joint.
  V target_of(int e) const { return has_target ? log_target[e] : even_log_target; }

  // Centres the given payoffs, as nes_jax/deviation.py does: for each play of the others, it
  // subtracts the payoff that is nearest to the mean under the duals.
  void centre(const V* duals) {
    for (int p = 0; p < players; ++p) {
      const auto& player = shape->players[p];
      const V* block = duals + shape->first_dual[p];
      V sum{};
      for (int i = 0; i < player.count; ++i) sum += block[i];
      const V inverse = O::reciprocal(O::max(sum, O::all(std::numeric_limits<T>::min())));
      for (int i = 0; i < player.count; ++i) gain[i] = block[i] * inverse;
      for (int r = 0; r < player.others; ++r) {
        const V* own = given[p] + player.base[r];
        V* out = operate.payoffs[p] + player.base[r];
        const V first = own[0];
        V mean{};
        for (int i = 0, at = 0; i < player.count; ++i, at += player.stride)
          mean += gain[i] * (own[at] - first);
        V nearest = first, distance = O::abs(mean);
        for (int i = 1, at = player.stride; i < player.count; ++i, at += player.stride) {
          const V away = O::abs(own[at] - first - mean);
          const M nearer = away < distance;
          nearest = nearer ? own[at] : nearest, distance = nearer ? away : distance;
        }
        for (int i = 0, at = 0; i < player.count; ++i, at += player.stride)
          out[at] = own[at] - nearest;
      }
    }
  }

  // Sets `now_residuals` to the sides in `next_residuals` minus the Newton matrix times `best`. Mass
  // and room have the opposite sign, as in a step.
  void subtract_product() {
    const Residuals& sides = next_residuals;
    Residuals& left = now_residuals;
    V total, sums[kMaxPlayers];
    operate.gains(best.joint, gain, total);
    for (int p = 0; p < players; ++p) sums[p] = V{};
    each_row([&](int p, int d, bool) {
      left.feasible[d] = sides.feasible[d] - gain[d] +
                         now.slack[d] * inverse_duals[d] * best.duals[d];
      if (soft) left.feasible[d] -= best.room[p];
      sums[p] += best.duals[d];
    });
    operate.logits(best.duals, scratch, [&](int e, V x) {
      const V curvature = (temperature + now.bound[e]) * inverse_joint[e];
      left.stationary[e] = sides.stationary[e] - curvature * best.joint[e] - x - best.shift;
    });
    left.mass = total - sides.mass;
    if (!soft) return;
    for (int p = 0; p < players; ++p)
      left.room[p] = rho / now.room[p] * best.room[p] + sums[p] - sides.room[p];
  }

  // Forms and factors the Newton system at `now`.
  void newton() {
    for (int e = 0; e < size; ++e) {
      inverse_joint[e] = O::reciprocal(now.joint[e]);
      weights[e] = now.joint[e] * O::reciprocal(temperature + now.bound[e]);
    }
    for (int d = 0; d < num_duals; ++d) inverse_duals[d] = O::reciprocal(now.duals[d]);
    if (soft)
      for (int p = 0; p < players; ++p) room_weights[p] = now.room[p] * O::reciprocal(rho);
    if constexpr (kCorrelated) newton_joint();
    else newton_dual();
  }

  // Newton system reduced to the duals, for CCE.
  void newton_dual() {
    V total;
    operate.covariance(weights, matrix.a, matrix.ld, border, total);
    inverse_total = O::reciprocal(total);
    for (int p = 0; p < players; ++p)
      for (int d = shape->first_dual[p]; d < shape->first_dual[p + 1]; ++d) {
        V* row = matrix.a + d * matrix.ld;
        if (soft)
          for (int k = shape->first_dual[p]; k <= d; ++k) row[k] += room_weights[p];
        row[d] = (row[d] + now.slack[d] * inverse_duals[d]) * (damping + T(1));
      }
    matrix.factor();
  }

  // Newton system reduced to the joint, for CE.
  void newton_joint() {
    for (int p = 0, d = 0; p < players; ++p) {
      V sum{};
      const int count = shape->players[p].count;
      for (int i = 0; i < count; ++i)
        for (int k = 0; k < count; ++k, ++d) {
          const V own = operate.square(p, weights, i, k) * kRowUlps;
          ratios[d] = now.duals[d] * O::reciprocal(now.slack[d] + now.duals[d] * own);
          sum += ratios[d];
        }
      if (soft) coupling[p] = room_weights[p] * O::reciprocal(T(1) + room_weights[p] * sum);
    }
    // From here on, `weights` has square roots of the weights.
    for (int e = 0; e < size; ++e) weights[e] = O::sqrt(weights[e]);
    if (!by_rows) operate.joint_gram(ratios, weights, matrix.a, matrix.ld);
    if (soft) {
      // The elimination of the rooms adds a term of rank one for each player.
      for (int p = 0; p < players; ++p) {
        each_row([&](int q, int d, bool) { slack_aim[d] = q == p ? ratios[d] : V{}; });
        operate.logits(slack_aim, scratch,
                       [&](int e, V x) { rays[p][e] = x * weights[e]; });
        if (by_rows) continue;
        for (int e = 0; e < size; ++e) {
          const V x = rays[p][e] * coupling[p];
          for (int k = 0; k <= e; ++k) matrix.a[e * matrix.ld + k] -= x * rays[p][k];
        }
      }
    }
    for (int l : lone) lone_matrix(l);
    for (int e = 0; e < size; ++e) {
      ones[e] = weights[e];
      if (by_rows) continue;
      V& x = matrix.a[e * matrix.ld + e];
      x = x + T(1) + damping * (T(1) + x);
    }
    if (!by_rows) matrix.factor();
    solve_system(ones);
    V total{};
    for (int e = 0; e < size; ++e) total += weights[e] * ones[e];
    inverse_total = O::reciprocal(total);
  }

  // Factorisation of one lane's matrix.
  LoneCholesky<T> lone_factor(int l) const {
    const size_t entries = size_t(matrix.side) * LoneCholesky<T>::leading(matrix.side);
    return LoneCholesky<T>(reinterpret_cast<T*>(matrix.a) + l * entries,
                           reinterpret_cast<T*>(matrix.inverse) + l * matrix.side, matrix.side);
  }

  // Forms and factors the matrix of one lane.
  void lone_matrix(int l) {
    const int ld = LoneCholesky<T>::leading(size);
    T* a = reinterpret_cast<T*>(matrix.a) + size_t(l) * size * ld;
    auto in_lane = [l](const V* at, int i) { return reinterpret_cast<const T*>(at)[i * W + l]; };
    if constexpr (kCorrelated) operate.lone_gram(l, ratios, weights, a, ld);
    for (int e = 0; e < size; ++e) {
      T* row = a + size_t(e) * ld;
      if (soft)
        for (int p = 0; p < players; ++p) {
          const T x = in_lane(rays[p], e) * coupling[p][l];
          for (int k = 0; k <= e; ++k) row[k] -= x * in_lane(rays[p], k);
        }
      row[e] = row[e] + T(1) + damping[l] * (T(1) + row[e]);
    }
    lone_factor(l).factor(reinterpret_cast<T*>(packed));
  }

  // Solves the factored system with a right-hand side, in place.
  void solve_system(V* x) {
    if (!by_rows) return matrix.solve(x);
    T* own = reinterpret_cast<T*>(packed);
    for (int l : lone) {
      T* at = reinterpret_cast<T*>(x) + l;
      for (int i = 0; i < matrix.side; ++i) own[i] = at[size_t(i) * W];
      lone_factor(l).solve(own);
      for (int i = 0; i < matrix.side; ++i) at[size_t(i) * W] = own[i];
    }
  }

  // Computes the Newton direction, except for the bound and the slack. It leads to
  // joint * bound = joint_aim and slack * duals = slack_aim; the predictor replaces both aims by 0.
  template <bool kCorrector>
  void direction() {
    auto right_side = [&](int e) {
      if constexpr (kCorrector)
        return joint_aim[e] * inverse_joint[e] - now_residuals.stationary[e];
      else return -now_residuals.stationary[e];
    };
    auto row_side = [&](int d) {
      const V x = now.slack[d] - now_residuals.feasible[d];
      if constexpr (kCorrector) return x - slack_aim[d] * inverse_duals[d];
      else return x;
    };
    if constexpr (kCorrelated) direction_joint(right_side, row_side);
    else direction_dual(right_side, row_side);
  }

  // Direction from the system of the duals.
  template <class H1, class H2>
  void direction_dual(H1 right_side, H2 row_side) {
    V first;
    for (int e = 0; e < size; ++e) next.joint[e] = weights[e] * right_side(e);
    operate.gains(next.joint, next.duals, first);
    first += now_residuals.mass;
    const V ratio = first * inverse_total;
    each_row([&](int p, int d, bool) {
      V x = next.duals[d] - row_side(d) - border[d] * ratio;
      if (soft) x -= room_weights[p] * now_residuals.room[p];
      next.duals[d] = x;
    });
    matrix.solve(next.duals);
    V taken{}, sums[kMaxPlayers];
    for (int p = 0; p < players; ++p) sums[p] = V{};
    each_row([&](int p, int d, bool) {
      taken += border[d] * next.duals[d];
      sums[p] += next.duals[d];
    });
    next.shift = (first - taken) * inverse_total;
    for (int p = 0; p < players; ++p)
      next.room[p] = -room_weights[p] * (now_residuals.room[p] + sums[p]);
    operate.logits(next.duals, scratch,
                   [&](int e, V x) { next.joint[e] -= weights[e] * (x + next.shift); });
  }

  // Direction from the system of the joint.
  template <class H1, class H2>
  void direction_joint(H1 right_side, H2 row_side) {
    V pushed[2] = {}, dot{}, total, left[2] = {};
    each_row([&](int p, int d, bool) {
      gain[d] = row_side(d), next.duals[d] = ratios[d] * gain[d], pushed[p] += next.duals[d];
    });
    operate.logits(next.duals, scratch, [&](int e, V x) {
      x = weights[e] * (x + right_side(e));
      if (soft)
        for (int p = 0; p < players; ++p)
          x -= coupling[p] * (pushed[p] - now_residuals.room[p]) * rays[p][e];
      next.joint[e] = x;
    });
    solve_system(next.joint);
    for (int e = 0; e < size; ++e) dot += weights[e] * next.joint[e];
    next.shift = (dot + now_residuals.mass) * inverse_total;
    for (int e = 0; e < size; ++e)
      next.joint[e] = weights[e] * (next.joint[e] - ones[e] * next.shift);
    operate.gains(next.joint, next.duals, total);
    each_row([&](int p, int d, bool) {
      next.duals[d] -= gain[d], left[p] += ratios[d] * next.duals[d];
    });
    for (int p = 0; p < players; ++p)
      next.room[p] = soft ? -coupling[p] * (now_residuals.room[p] + left[p]) : V{};
    each_row([&](int p, int d, bool) {
      next.duals[d] = ratios[d] * (soft ? next.duals[d] + next.room[p] : next.duals[d]);
    });
  }

  // Completes the direction. On return, `primal` is the reciprocal of the step at which the first
  // primal variable reaches zero, and `bounds` is the same for the dual variables.
  template <bool kCorrector>
  void lengths(V& primal, V& bounds) {
    primal = bounds = O::all(-O::kInfinity);
    for (int e = 0; e < size; ++e) {
      const V relative = next.joint[e] * inverse_joint[e];
      primal = O::max(primal, -relative);
      if constexpr (kCorrector) {
        const V x = joint_aim[e] * inverse_joint[e] - now.bound[e] * (relative + T(1));
        next.bound[e] = x;
        bounds = O::max(bounds, -x / now.bound[e]);
      } else {
        next.bound[e] = -now.bound[e] * (relative + T(1));
        bounds = O::max(bounds, relative + T(1));
      }
    }
    for (int d = 0; d < num_duals; ++d) {
      const V relative = next.duals[d] * inverse_duals[d];
      bounds = O::max(bounds, -relative);
      if constexpr (kCorrector) {
        const V x = slack_aim[d] * inverse_duals[d] - now.slack[d] * (relative + T(1));
        next.slack[d] = x;
        primal = O::max(primal, -x / now.slack[d]);
      } else {
        next.slack[d] = -now.slack[d] * (relative + T(1));
        primal = O::max(primal, relative + T(1));
      }
    }
    if (soft)
      for (int p = 0; p < players; ++p) primal = O::max(primal, -next.room[p] / now.room[p]);
  }

  // Sets the aims of the corrector: Mehrotra's centring, minus the second-order term of the
  // predictor.
  void aim(V step) {
    V before{}, after{};
    const V weight = step < kShortStep ? step : O::all(1);
    for (int e = 0; e < size; ++e) {
      before += now.joint[e] * now.bound[e];
      after += (now.joint[e] + step * next.joint[e]) * (now.bound[e] + step * next.bound[e]);
      joint_aim[e] = weight * next.joint[e] * next.bound[e];
    }
    for (int d = 0; d < num_duals; ++d) {
      before += now.slack[d] * now.duals[d];
      after += (now.slack[d] + step * next.slack[d]) * (now.duals[d] + step * next.duals[d]);
      slack_aim[d] = weight * next.slack[d] * next.duals[d];
    }
    const V left = after / before;
    const V cube = O::min(O::max(left * left * left, O::all(T(1e-6))), O::all(1));
    const V target = cube * before * (T(1) / T(size + num_duals));
    for (int e = 0; e < size; ++e) joint_aim[e] = target - joint_aim[e];
    for (int d = 0; d < num_duals; ++d) slack_aim[d] = target - slack_aim[d];
  }

  // Replaces the direction in `next` by the point after the step.
  void advance(V primal, V bounds) {
    const T share = T(config.to_boundary);
    primal = O::min(O::all(1), share / O::max(primal, O::all(T(1e-3))));
    bounds = O::min(O::all(1), share / O::max(bounds, O::all(T(1e-3))));
    const V tiny = O::all(kTiny);
    for (int e = 0; e < size; ++e) {
      next.joint[e] = O::max(tiny, now.joint[e] + primal * next.joint[e]);
      next.bound[e] = O::max(tiny, now.bound[e] + bounds * next.bound[e]);
    }
    for (int d = 0; d < num_duals; ++d) {
      next.slack[d] = O::max(tiny, now.slack[d] + primal * next.slack[d]);
      next.duals[d] = O::max(tiny, now.duals[d] + bounds * next.duals[d]);
    }
    next.shift = now.shift + bounds * next.shift;
    if (soft)
      for (int p = 0; p < players; ++p) next.room[p] = now.room[p] + primal * next.room[p];
  }

  // Computes residuals, error and merit of `next`, as nes_jax/exact does.
  void measure() {
    if (kCentres) centre(next.duals);
    V total, peak = O::all(-O::kInfinity), product{};
    V* taken = next_residuals.stationary;
    auto utility = [&](int e) { return has_welfare ? welfare[e] - taken[e] : -taken[e]; };
    operate.gains(next.joint, gain, total);
    operate.logits(next.duals, taken, [&](int e, V x) {
      taken[e] = x, peak = O::max(peak, utility(e));
    });
    const V inverse = O::reciprocal(total), sharpness = O::reciprocal(safe_temperature);
    V partition{}, divergence{}, lost{};
    for (int e = 0; e < size; ++e) {
      const V joint = next.joint[e], value = utility(e), target = target_of(e);
      const V ratio = O::log(joint) - target, below = O::min(value - peak, V{});
      partition += O::exp(target + below * sharpness);
      divergence += joint * ratio, lost += joint * below;
      product += joint * next.bound[e];
      next_residuals.stationary[e] = temperature * ratio - value + next.shift;
    }
    V gap = temperature * (divergence * inverse - O::log(total) + O::log(partition)) -
            lost * inverse;
    V infeasible[kMaxPlayers], sums[kMaxPlayers], bound_sums[kMaxPlayers];
    for (int p = 0; p < players; ++p) {
      infeasible[p] = sums[p] = bound_sums[p] = V{};
      next_worst[p] = O::all(-O::kInfinity);
    }
    const V slackness = O::all(T(2 * config.relaxation));
    each_row([&](int p, int d, bool idle) {
      const V dual = next.duals[d];
      V f = gain[d] + next.slack[d] - (idle ? idle_limit[p] : limit[p]);
      if (soft) f += next.room[p];
      next_residuals.feasible[d] = f;
      infeasible[p] = O::max(infeasible[p], O::abs(f));
      product += next.slack[d] * dual, sums[p] += dual;
      if (idle) return;
      V left = limit[p] - T(config.relaxation) - gain[d] * inverse;
      if (soft) left -= next.room[p];
      next_worst[p] = O::max(next_worst[p], -left);
      if (config.relaxation > 0) left = O::max(left, O::min(left + slackness, V{}));
      gap += binding[p] * dual * left, bound_sums[p] += binding[p] * dual;
    });
    next_residuals.mass = total - T(1);
    V largest = O::all(-O::kInfinity), off = O::abs(next_residuals.mass);
    next_merit = product + off;
    for (int p = 0; p < players; ++p) {
      largest = O::max(largest, next_worst[p]), next_merit += infeasible[p];
      if (!soft) continue;
      const V level = O::log(next.room[p]) - log_room[p];
      next_residuals.room[p] = rho * level + sums[p];
      gap += rho * next.room[p] * O::exp_excess(level + bound_sums[p] / rho);
    }
    next_error = O::max(O::max(largest, off), O::abs(gap));
    // With a NaN, the error and the merit become infinite: a NaN would satisfy comparisons wrongly.
    next_error = gap != gap ? O::all(O::kInfinity) : next_error;
    next_merit = (next_merit != next_merit) | (gap != gap) ? O::all(O::kInfinity) : next_merit;
  }

  // Copies `now` to `best` in the lanes `leaving`, which are about to move.
  void keep_best(M leaving) {
    bool any = false;
    for (int l = 0; l < W; ++l) any |= leaving[l] != 0;
    if (!any) return;
    auto keep = [&](V* to, const V* from, int count) {
      for (int i = 0; i < count; ++i) to[i] = leaving ? from[i] : to[i];
    };
    keep(best.joint, now.joint, size), keep(best.bound, now.bound, size);
    keep(best.slack, now.slack, num_duals), keep(best.duals, now.duals, num_duals);
    keep(&best.shift, &now.shift, 1), keep(best.room, now.room, players);
    keep(best_worst, worst, players), keep(&best_mass, &mass, 1);
  }

  // Replaces `now` by `next` in the lanes `moving`. Returns whether an occupied lane did not move.
  bool move(M moving, M occupied) {
    bool all = true;
    for (int l = 0; l < W; ++l) all &= moving[l] != 0 || occupied[l] == 0;
    auto go = [&](V*& to, V*& from, int count) {
      if (all) return std::swap(to, from);
      for (int i = 0; i < count; ++i) to[i] = moving ? from[i] : to[i];
    };
    auto choose = [&](V* to, const V* from, int count) {
      for (int i = 0; i < count; ++i) to[i] = moving ? from[i] : to[i];
    };
    go(now.joint, next.joint, size), go(now.bound, next.bound, size);
    go(now.slack, next.slack, num_duals), go(now.duals, next.duals, num_duals);
    go(now_residuals.stationary, next_residuals.stationary, size);
    go(now_residuals.feasible, next_residuals.feasible, num_duals);
    const V total = next_residuals.mass + T(1);
    choose(&mass, &total, 1);
    choose(&now.shift, &next.shift, 1), choose(now.room, next.room, players);
    choose(&now_residuals.mass, &next_residuals.mass, 1);
    choose(now_residuals.room, next_residuals.room, players);
    choose(worst, next_worst, players), choose(&error, &next_error, 1);
    choose(&merit, &next_merit, 1);
    return !all;
  }

  // Sets the joint by eq. (9) from the duals given. The temperature has a lower bound, because a
  // program without entropy has no such joint.
  void start_joint() {
    const V sharpness =
        O::reciprocal(O::max(temperature, O::all(T(config.warm_start))));
    V peak = O::all(-O::kInfinity), sum{};
    operate.logits(next.duals, scratch, [&](int e, V x) {
      const V value = (has_welfare ? welfare[e] - x : -x) * sharpness + target_of(e);
      next.joint[e] = value, peak = O::max(peak, value);
    });
    for (int e = 0; e < size; ++e) {
      next.joint[e] = O::exp(next.joint[e] - peak);
      sum += next.joint[e];
    }
    for (int e = 0; e < size; ++e) next.joint[e] = next.joint[e] / sum;
  }

  // Sets rooms at which the joint is feasible, as far as epsilon-plus permits, and multipliers of
  // the size that eq. (10) gives for these rooms.
  void start_room(V& bound, V slack, V least) {
    int largest_block = 0;
    V growth = O::all(-O::kInfinity);
    for (int p = 0; p < players; ++p) {
      V most = O::all(-O::kInfinity);
      for (int d = shape->first_dual[p]; d < shape->first_dual[p + 1]; ++d)
        most = O::max(most, gain[d]);
      const V target = O::exp(log_room[p]);
      next.room[p] = O::min(O::max(limit[p] - most - slack, T(0.1) * target), target);
      growth = O::max(growth, O::log(target / next.room[p]));
      largest_block = std::max(largest_block, shape->first_dual[p + 1] - shape->first_dual[p]);
    }
    growth *= rho * T(1 / (largest_block * config.start_dual));
    growth = O::max(growth, O::all(1));
    for (int d = 0; d < num_duals; ++d) next.duals[d] = O::max(next.duals[d], growth * least);
    bound *= growth;
  }
};

}  // namespace nes
