// Correlated equilibria of two-player games, with one team of lanes for each game.
//
// A game of N x N strategies, or of fewer (`Padded`), has E = N N joint strategies and as many
// duals of each player. A team has E / 2 lanes. Each lane has two joint strategies and two duals of
// each player, called its sets 0 and 1. With j = lane % N, and i = lane / N in set 0 or
// i = lane / N + N / 2 in set 1, these are
//
//   joint strategy   (i, j), number i N + j
//   duals            recommendation i, deviation j, of player 0 and of player 1
//
// This is the method of nes_jax/exact with the Newton system reduced to the joint. The E x E Newton
// matrix, scaled by the square roots of the weights, is factored in shared memory in panels of N
// columns, which belong to one strategy of player 0. There are two differences: rounding, and A'
// alpha is summed over differences of payoffs. Strategies that do not exist have neither joint
// strategies nor duals. A dual on the diagonal is no deviation, and is treated as in nes_jax/exact.
//
// The whole Newton step is one file because its parts share the numbers in the registers of a lane.
#pragma once
#include "device.h"

namespace nes {

// State and steps of the method for one team, as seen from one of its lanes.
template <int N, bool Padded>
struct Correlated {
  static constexpr int E = N * N;
  static constexpr int kTeam = team_lanes(true, N);
  // Number of values of i in a set.
  static constexpr int kHalf = N / 2;
  // Number of blocks on a multiprocessor.
  static constexpr int kBlocks = 4;
  // Starting values, as in nes_jax/exact.
  static constexpr float kStartDual = 3.f, kStartBound = 3.f, kStartSlack = 1.f;
  // Layout of a team's shared memory, in floats: the payoffs of both players by i and j, two tables
  // X and Y for the exchange between lanes, and the factor. Rows of tables begin in different
  // banks.
  static constexpr int kRow = N == 8 ? 12 : N, kTable = N * kRow;
  static constexpr int kFirst = 0, kSecond = kTable, kX = 2 * kTable, kY = 3 * kTable;
  static constexpr int kFactor = 4 * kTable;
  static constexpr int kPad = N >= 4 ? 4 : 0;
  static constexpr int kShared = kFactor + N * (N * (E + kPad) - N * (N * (N - 1) / 2));

  const Arguments& args;
  float* const shared;
  Team<kTeam> team;
  Progress progress;
  // The numbers i of both sets, and the number j.
  int at[2], j;

  // The game: payoffs of this lane's joint strategies.
  float pay0[2], pay1[2];
  // Payoffs of player 0 for strategy j against each strategy of player 1.
  float row0[N];
  // Payoffs of player 0 for each of its strategies against j.
  float column0[N];
  // Payoffs of player 1 for j against each strategy of player 0.
  float column1[N];
  // Right-hand side of each player's constraints.
  float limit[2];
  // 1 for a player whose constraints can bind, and 0 for a player with constant payoffs.
  float binds[2];
  // Logarithm of the uniform joint.
  float uniform;
  // Number of joint strategies and constraints.
  float count;
  // Whether the joint strategy of a set exists, in bit `set`, and whether the row of a player
  // exists, in bit 2 + 2 player + set.
  unsigned present;
  // The point: joint, multiplier of its bound, slack, duals and multiplier of the sum. The axes of
  // arrays [2][2] are player and set.
  float joint[2], bound[2], slack[2][2], dual[2][2], shift;
  // Residuals of the point. `pull` is the stationarity plus the multiplier of the bound.
  float pull[2], off[2][2], excess;
  // The Newton system: square roots of weights, ratios of duals to slacks, reciprocals of the
  // factor's diagonal, and least pivots.
  float root[2], ratio[2][2], inverse[2], least[2];

  NES_DEVICE Correlated(const Arguments& arguments, float* memory, int thread)
      : args(arguments), shared(memory) {
    team.lane = thread % kTeam;
    team.warp_lane = thread % kWarp;
    progress.clear();
    j = team.lane % N;
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      at[s] = team.lane / N + s * kHalf;
      pay0[s] = pay1[s] = pull[s] = 0.f;
      joint[s] = bound[s] = limit[s] = binds[s] = 1.f;
      NES_UNROLL for (int p = 0; p < 2; ++p) {
        slack[p][s] = dual[p][s] = 1.f;
        off[p][s] = 0.f;
      }
    }
    NES_UNROLL for (int k = 0; k < N; ++k) row0[k] = column0[k] = column1[k] = 0.f;
    count = 1.f;
    shift = excess = uniform = 0.f;
    present = kAllLanes;
  }

  // Whether the joint strategy of a set exists.
  NES_DEVICE bool exists(int s) const { return !Padded || (present >> s & 1u) != 0; }
  // Whether the row of a player exists in a set.
  NES_DEVICE bool has(int player, int s) const {
    return !Padded || (present >> (2 + 2 * player + s) & 1u) != 0;
  }
  // Returns x, or 0 if the joint strategy or the row does not exist.
  NES_DEVICE float where(int s, float x) const { return choose(exists(s), x, 0.f); }
  NES_DEVICE float where_row(int player, int s, float x) const {
    return choose(has(player, s), x, 0.f);
  }
  // A row on the diagonal is no deviation, and does not bind.
  NES_DEVICE bool diagonal(int s) const { return at[s] == j; }
  NES_DEVICE float row_limit(int p, int s) const { return choose(diagonal(s), 1.f, limit[p]); }
  NES_DEVICE float row_binds(int p, int s) const { return choose(diagonal(s), 0.f, binds[p]); }

  // Writes x to table X at (i, j) and y to table Y at (i, j), or at (j, i) if `Transposed`, for all
  // lanes of the team.
  template <bool Transposed>
  NES_DEVICE void tell(const float (&x)[2], const float (&y)[2]) const {
    team.meet();
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      shared[kX + at[s] * kRow + j] = x[s];
      shared[kY + (Transposed ? j * kRow + at[s] : at[s] * kRow + j)] = y[s];
    }
    team.meet();
  }

  // Computes the gains A x, for any real weights x of the joint strategies.
  NES_DEVICE void gains(const float (&x)[2], float (&gain)[2][2]) const {
    tell<true>(x, x);
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      float line[N], value0 = 0.f, value1 = 0.f;
      get<N>(shared + kX + at[s] * kRow, line);
      NES_UNROLL for (int k = 0; k < N; ++k) value0 += line[k] * row0[k];
      get<N>(shared + kY + at[s] * kRow, line);
      NES_UNROLL for (int k = 0; k < N; ++k) value1 += line[k] * column1[k];
      // The lane on the diagonal has the value of the recommended strategy itself.
      const int kept = team.lane / N * N + at[s];
      gain[0][s] = value0 - team.from(value0, kept);
      gain[1][s] = value1 - team.from(value1, kept);
    }
  }

  // Computes A' alpha, which duals take from the logits of this lane's joint strategies.
  NES_DEVICE void logits(const float (&a)[2][2], float (&taken)[2]) const {
    tell<false>(a[0], a[1]);
    float own[N];
    get<N>(shared + kY + j * kRow, own);
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      float line[N], value0 = 0.f, value1 = 0.f;
      get<N>(shared + kX + at[s] * kRow, line);
      NES_UNROLL for (int k = 0; k < N; ++k) value0 += line[k] * (column0[k] - pay0[s]);
      get<N>(shared + kSecond + at[s] * kRow, line);
      NES_UNROLL for (int k = 0; k < N; ++k) value1 += own[k] * (line[k] - pay1[s]);
      taken[s] = value0 + value1;
    }
  }

  // Logarithm of the target joint. The joint strategy must exist.
  NES_DEVICE float log_target(int s) const {
    if (args.log_target == nullptr) return uniform;
    const int n = Padded ? args.n : N, m = Padded ? args.m : N;
    return args.log_target[(static_cast<long long>(progress.game) * n + at[s]) * m + j];
  }

  // Computes the residuals of a point, its error and its merit, as nes_jax/exact does.
  NES_DEVICE void measure(const float (&x)[2], const float (&z)[2], const float (&s)[2][2],
                          const float (&a)[2][2], float lambda, float (&next_pull)[2],
                          float (&next_off)[2][2], float& next_excess, float& error,
                          float& merit) const {
    float gain[2][2], taken[2];
    logits(a, taken);
    gains(x, gain);
    const float total = team.sum(x[0] + x[1]);
    float peak = -infinity();
    NES_UNROLL for (int k = 0; k < 2; ++k) {
      if (exists(k)) peak = larger(peak, -taken[k]);
    }
    peak = team.largest(peak);
    // Gains and gap are those of the answer, which is the joint divided by its sum.
    const float scale = reciprocal(total);
    float partition = 0.f, entropy = 0.f, complementary = 0.f, product = 0.f;
    float worst = 0.f, worst_off[2] = {0.f, 0.f};
    NES_UNROLL for (int k = 0; k < 2; ++k) {
      const float target = exists(k) ? log_target(k) : 0.f;
      const float logarithm = log_of(x[k]) - target;
      const float below = smaller(-taken[k] - peak, 0.f);
      next_pull[k] = where(k, logarithm + taken[k] + lambda);
      partition += where(k, exp_of(target + below));
      entropy += where(k, x[k] * (logarithm - below));
      product += where(k, x[k] * z[k]);
      NES_UNROLL for (int p = 0; p < 2; ++p) {
        next_off[p][k] = where_row(p, k, gain[p][k] + s[p][k] - row_limit(p, k));
        const float left = where_row(p, k, row_limit(p, k) - gain[p][k] * scale);
        worst = larger(worst, -left);
        worst_off[p] = larger(worst_off[p], magnitude(next_off[p][k]));
        complementary += row_binds(p, k) * a[p][k] * left;
        product += where_row(p, k, s[p][k] * a[p][k]);
      }
    }
    partition = team.sum(partition);
    product = team.sum(product);
    next_excess = total - 1.f;
    const float gap =
        team.sum(entropy * scale + complementary) + log_of(partition) - log_of(total);
    const float imbalance = magnitude(next_excess);
    error = never_nan(larger(larger(magnitude(gap), team.largest(worst)), imbalance));
    merit = never_nan(product + imbalance + team.largest(worst_off[0]) +
                      team.largest(worst_off[1]));
  }

  // Place of panel p of the factor in shared memory, and the distance between its columns. A column
  // holds the rows from the panel's first row on.
  static NES_DEVICE int panel_stride(int p) { return E - p * N + kPad; }
  static NES_DEVICE int panel(int p) {
    return kFactor + N * (p * (E + kPad) - N * (p * (p - 1) / 2));
  }

  // Computes the square roots of the weights, and the ratios of duals to slacks.
  NES_DEVICE void weigh() {
    float weight[2];
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      weight[s] = joint[s] * reciprocal(bound[s] + 1.f);
      root[s] = weight[s] * inverse_root(larger(weight[s], kTiny));
    }
    tell<true>(weight, weight);
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      // Squares of the gains, weighted.
      float w[N], kept[N], square[2] = {0.f, 0.f};
      get<N>(shared + kX + at[s] * kRow, w);
      get<N>(shared + kFirst + at[s] * kRow, kept);
      NES_UNROLL for (int k = 0; k < N; ++k) {
        const float difference = row0[k] - kept[k];
        square[0] += w[k] * difference * difference;
      }
      get<N>(shared + kY + at[s] * kRow, w);
      NES_UNROLL for (int k = 0; k < N; ++k) {
        const float difference = column1[k] - shared[kSecond + k * kRow + at[s]];
        square[1] += w[k] * difference * difference;
      }
      // In rows that can hold with equality only, the slack converges to 0 and the dual is rounding
      // noise. Adding some ulps of the row's diagonal to the slack keeps the dual from growing.
      NES_UNROLL for (int p = 0; p < 2; ++p) {
        const float added = dual[p][s] * (kRowUlps * kEpsilon) * square[p];
        ratio[p][s] = where_row(p, s, dual[p][s] * reciprocal(slack[p][s] + added));
      }
    }
  }

  // Factors the Newton matrix, the identity plus root A' diag(ratio) A root, into L L'.
  NES_DEVICE void factor() {
    weigh();
    // `block` is the block on the diagonal of each of this lane's rows, which is player 0's part of
    // the matrix. Player 1's part is one element in every other block, made from `across`.
    float block[2][N], across[2][N];
    tell<false>(ratio[0], ratio[1]);
    float own[N];
    get<N>(shared + kY + j * kRow, own);
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      float line[N], kept[N];
      get<N>(shared + kSecond + at[s] * kRow, line);
      NES_UNROLL for (int k = 0; k < N; ++k) {
        across[s][k] = root[s] * own[k] * (line[k] - pay1[s]);
      }
      get<N>(shared + kX + at[s] * kRow, line);
      get<N>(shared + kFirst + at[s] * kRow, kept);
      NES_UNROLL for (int c = 0; c < N; ++c) block[s][c] = 0.f;
      NES_UNROLL for (int k = 0; k < N; ++k) {
        float other[N];
        get<N>(shared + kFirst + k * kRow, other);
        const float x = root[s] * line[k] * (column0[k] - pay0[s]);
        NES_UNROLL for (int c = 0; c < N; ++c) block[s][c] += x * (other[c] - kept[c]);
      }
    }
    tell<false>(root, root);
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      float roots[N];
      get<N>(shared + kX + at[s] * kRow, roots);
      float full = crossed(across[s], at[s]);
      NES_UNROLL for (int c = 0; c < N; ++c) {
        block[s][c] *= roots[c];
        full += choose(c == j, block[s][c], 0.f);
      }
      full += 1.f + progress.damping * (1.f + full);
      least[s] = kFloor * full;
      NES_UNROLL for (int c = 0; c < N; ++c) block[s][c] = choose(c == j, full, block[s][c]);
    }
    factor_panels<0>(block, across);
    factor_panels<1>(block, across);
    team.meet();
  }
  // Element of the scaled matrix in the column of (p, j).
  NES_DEVICE float crossed(const float (&across)[N], int p) const {
    float line[N], value = 0.f;
    get<N>(shared + kSecond + p * kRow, line);
    const float kept = shared[kSecond + p * kRow + j];
    NES_UNROLL for (int k = 0; k < N; ++k) value += across[k] * (line[k] - kept);
    return value * shared[kX + p * kRow + j];
  }
  // Factors the panels whose rows on the diagonal are in one set of the lanes. A panel is computed
  // in registers from the panels before it. The values of rows above the panel are not used.
  template <int Set>
  NES_DEVICE void factor_panels(const float (&block)[2][N], const float (&across)[2][N]) {
    NES_ROLL for (int q = 0; q < kHalf; ++q) {
      const int p = Set * kHalf + q;
      float x[2][N];
      NES_UNROLL for (int s = Set; s < 2; ++s) {
        const float element = crossed(across[s], p);
        const bool own = at[s] == p;
        NES_UNROLL for (int c = 0; c < N; ++c) {
          x[s][c] = choose(own, block[s][c], choose(c == j, element, 0.f));
        }
      }
      team.meet();
      NES_ROLL for (int before = 0; before < p; ++before) {
        const float* const from = shared + panel(before) - before * N;
        const int stride = panel_stride(before);
        NES_UNROLL for (int k = 0; k < N; ++k) {
          float pivots[N];
          get<N>(from + k * stride + p * N, pivots);
          NES_UNROLL for (int s = Set; s < 2; ++s) {
            const float mine = from[k * stride + team.lane + s * kTeam];
            NES_UNROLL for (int c = 0; c < N; ++c) x[s][c] -= mine * pivots[c];
          }
        }
      }
      // Lane of the panel's first row.
      const int first = q * N;
      NES_UNROLL for (int c = 0; c < N; ++c) {
        const float mine = inverse_root(larger(x[Set][c] + least[Set], least[Set]));
        const float pivot = team.from(mine, first + c);
        inverse[Set] = choose(team.lane == first + c, mine, inverse[Set]);
        NES_UNROLL for (int s = Set; s < 2; ++s) x[s][c] *= pivot;
        NES_UNROLL for (int d = c + 1; d < N; ++d) {
          const float other = team.from(x[Set][c], first + d);
          NES_UNROLL for (int s = Set; s < 2; ++s) x[s][d] -= x[s][c] * other;
        }
      }
      float* const to = shared + panel(p) - p * N;
      NES_UNROLL for (int s = Set; s < 2; ++s) {
        if (at[s] >= p) {
          NES_UNROLL for (int c = 0; c < N; ++c) {
            to[c * panel_stride(p) + team.lane + s * kTeam] = x[s][c];
          }
        }
      }
    }
  }

  // Solves the factored system with right-hand sides, in place. A row of the factor ends at the
  // diagonal; values that lanes read beyond it are not used.
  template <int Count>
  NES_DEVICE void substitute(float (&b)[Count][2]) const {
    forward<0>(b);
    forward<1>(b);
    backward<1>(b);
    backward<0>(b);
  }
  template <int Set, int Count>
  NES_DEVICE void forward(float (&b)[Count][2]) const {
    NES_ROLL for (int q = 0; q < kHalf; ++q) {
      const int p = Set * kHalf + q, stride = panel_stride(p);
      const float* const from = shared + panel(p) - p * N + team.lane;
      NES_UNROLL for (int c = 0; c < N; ++c) {
        const int owner = q * N + c;
        float mine[2];
        NES_UNROLL for (int s = Set; s < 2; ++s) mine[s] = from[c * stride + s * kTeam];
        NES_UNROLL for (int r = 0; r < Count; ++r) {
          const float y = team.from(b[r][Set] * inverse[Set], owner);
          NES_UNROLL for (int s = Set; s < 2; ++s) {
            const float x = b[r][s] - mine[s] * y;
            const bool later = s > Set || team.lane > owner;
            b[r][s] = choose(later, x, choose(team.lane == owner, y, b[r][s]));
          }
        }
      }
    }
  }
  template <int Set, int Count>
  NES_DEVICE void backward(float (&b)[Count][2]) const {
    NES_ROLL for (int q = kHalf - 1; q >= 0; --q) {
      const int p = Set * kHalf + q;
      float mine[2][N];
      NES_UNROLL for (int s = 0; s <= Set; ++s) {
        const int own = panel(at[s]) + j * panel_stride(at[s]);
        get<N>(shared + own + (p - at[s]) * N, mine[s]);
      }
      NES_UNROLL for (int c = N - 1; c >= 0; --c) {
        const int owner = q * N + c;
        NES_UNROLL for (int r = 0; r < Count; ++r) {
          const float y = team.from(b[r][Set] * inverse[Set], owner);
          NES_UNROLL for (int s = 0; s <= Set; ++s) {
            const float x = b[r][s] - mine[s][c] * y;
            const bool earlier = s < Set || team.lane < owner;
            const bool owns = s == Set && team.lane == owner;
            b[r][s] = choose(earlier, x, choose(owns, y, b[r][s]));
          }
        }
      }
    }
  }

  // Takes one predictor-corrector step.
  NES_DEVICE void step() {
    factor();
    float d_joint[2], d_bound[2], d_slack[2][2], d_dual[2][2], d_shift = 0.f;
    // Reciprocals of the steps at which the first primal and the first dual variable reach zero.
    float primal = 0.f, duals = 0.f;
    float ones[2] = {0.f, 0.f}, inverse_mass = 0.f;
    // Before each pass, d_bound holds the aim of the products sigma z, and d_slack the aim of the
    // products s alpha. The aims of the first pass, the predictor, are 0.
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      d_bound[s] = d_slack[0][s] = d_slack[1][s] = 0.f;
    }
    NES_ROLL for (int pass = 0; pass < 2; ++pass) {
      float right[2][2], pushed[2][2], taken[2], x[2];
      NES_UNROLL for (int p = 0; p < 2; ++p) {
        NES_UNROLL for (int s = 0; s < 2; ++s) {
          const float inverse_dual = where_row(p, s, reciprocal(dual[p][s]));
          right[p][s] = slack[p][s] - d_slack[p][s] * inverse_dual - off[p][s];
          pushed[p][s] = ratio[p][s] * right[p][s];
        }
      }
      logits(pushed, taken);
      NES_UNROLL for (int s = 0; s < 2; ++s) {
        const float inverse_joint = where(s, reciprocal(joint[s]));
        x[s] = root[s] * (d_bound[s] * inverse_joint - pull[s] + taken[s]);
      }
      if (pass == 0) {
        float both[2][2] = {{x[0], x[1]}, {root[0], root[1]}};
        substitute(both);
        NES_UNROLL for (int s = 0; s < 2; ++s) {
          x[s] = both[0][s];
          ones[s] = both[1][s];
        }
        inverse_mass = reciprocal(team.sum(root[0] * ones[0] + root[1] * ones[1]));
      } else {
        float alone[1][2] = {{x[0], x[1]}};
        substitute(alone);
        x[0] = alone[0][0];
        x[1] = alone[0][1];
      }
      d_shift = (team.sum(root[0] * x[0] + root[1] * x[1]) + excess) * inverse_mass;
      NES_UNROLL for (int s = 0; s < 2; ++s) d_joint[s] = root[s] * (x[s] - ones[s] * d_shift);
      gains(d_joint, d_dual);
      primal = duals = 0.f;
      NES_UNROLL for (int s = 0; s < 2; ++s) {
        const float inverse_joint = where(s, reciprocal(joint[s]));
        d_bound[s] = (d_bound[s] - bound[s] * d_joint[s]) * inverse_joint - bound[s];
        primal = larger(primal, -d_joint[s] * inverse_joint);
        duals = larger(duals, where(s, -d_bound[s] * reciprocal(bound[s])));
        NES_UNROLL for (int p = 0; p < 2; ++p) {
          const float inverse_dual = where_row(p, s, reciprocal(dual[p][s]));
          const float a = ratio[p][s] * (d_dual[p][s] - right[p][s]);
          const float y = (d_slack[p][s] - slack[p][s] * a) * inverse_dual - slack[p][s];
          d_dual[p][s] = a;
          d_slack[p][s] = y;
          primal = larger(primal, where_row(p, s, -y * reciprocal(slack[p][s])));
          duals = larger(duals, -a * inverse_dual);
        }
      }
      primal = team.largest(primal);
      duals = team.largest(duals);
      if (pass == 0) {
        const float length = reciprocal(larger(1.f, larger(primal, duals)));
        float now = 0.f, then = 0.f;
        NES_UNROLL for (int s = 0; s < 2; ++s) {
          now += joint[s] * bound[s];
          then += (joint[s] + length * d_joint[s]) * (bound[s] + length * d_bound[s]);
          NES_UNROLL for (int p = 0; p < 2; ++p) {
            now += slack[p][s] * dual[p][s];
            then += (slack[p][s] + length * d_slack[p][s]) * (dual[p][s] + length * d_dual[p][s]);
          }
        }
        now = team.sum(now);
        then = team.sum(then);
        const float aim = centring(now, then, reciprocal(count));
        const float second = length < kShortStep ? length : 1.f;
        NES_UNROLL for (int s = 0; s < 2; ++s) {
          d_bound[s] = aim - second * d_joint[s] * d_bound[s];
          NES_UNROLL for (int p = 0; p < 2; ++p) {
            d_slack[p][s] = aim - second * d_slack[p][s] * d_dual[p][s];
          }
        }
      }
    }
    primal = step_length(primal);
    duals = step_length(duals);
    // The next point takes the place of the direction.
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      d_joint[s] = larger(joint[s] + primal * d_joint[s], kTiny);
      d_bound[s] = larger(bound[s] + duals * d_bound[s], kTiny);
      NES_UNROLL for (int p = 0; p < 2; ++p) {
        d_slack[p][s] = larger(slack[p][s] + primal * d_slack[p][s], kTiny);
        d_dual[p][s] = larger(dual[p][s] + duals * d_dual[p][s], kTiny);
      }
    }
    d_shift = shift + duals * d_shift;
    float next_pull[2], next_off[2][2], next_excess, error, merit;
    measure(d_joint, d_bound, d_slack, d_dual, d_shift, next_pull, next_off, next_excess, error,
            merit);
    bool leaves_best;
    const bool move = progress.judge(args, error, merit, leaves_best);
    if (leaves_best) write_point();
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      joint[s] = choose(move, d_joint[s], joint[s]);
      bound[s] = choose(move, d_bound[s], bound[s]);
      pull[s] = choose(move, next_pull[s], pull[s]);
      NES_UNROLL for (int p = 0; p < 2; ++p) {
        slack[p][s] = choose(move, d_slack[p][s], slack[p][s]);
        dual[p][s] = choose(move, d_dual[p][s], dual[p][s]);
        off[p][s] = choose(move, next_off[p][s], off[p][s]);
      }
    }
    shift = choose(move, d_shift, shift);
    excess = choose(move, next_excess, excess);
  }

  // Sets `present`, and returns the number of strategies of each player that exist.
  NES_DEVICE void find_strategies(int& rows, int& columns) {
    unsigned bits[2];
    existing<N>(args, progress.game, bits);
    rows = __popc(bits[0]);
    columns = __popc(bits[1]);
    present = 0u;
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      present |= (bits[0] >> at[s] & bits[1] >> j & 1u) << s;
      NES_UNROLL for (int p = 0; p < 2; ++p) {
        present |= (bits[p] >> at[s] & bits[p] >> j & 1u) << (2 + 2 * p + s);
      }
    }
  }

  // Loads the game of a fresh team, and sets its starting joint and duals.
  NES_DEVICE void load() {
    const long long game = progress.game;
    int rows = N, columns = N;
    if constexpr (Padded) find_strategies(rows, columns);
    const int n = Padded ? args.n : N, m = Padded ? args.m : N;
    const float* const from = args.payoffs + game * (2 * n * m);
    const float size = static_cast<float>(rows * columns), share = reciprocal(size);
    count = size + static_cast<float>(rows * rows + columns * columns);
    uniform = -log_of(size);
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      const int place = at[s] * m + j;
      pay0[s] = exists(s) ? from[place] : 0.f;
      pay1[s] = exists(s) ? from[n * m + place] : 0.f;
      shared[kFirst + at[s] * kRow + j] = pay0[s];
      shared[kSecond + at[s] * kRow + j] = pay1[s];
      const float target = exists(s) && args.log_target ? exp_of(log_target(s)) : share;
      joint[s] = where(s, 0.9f * target + 0.1f * share);
      bound[s] = where(s, kStartBound * share * reciprocal(joint[s]));
      NES_UNROLL for (int p = 0; p < 2; ++p) dual[p][s] = where_row(p, s, kStartDual);
    }
    shift = 0.f;
  }

  // Sets the starting points of fresh teams. All lanes of the warp must call it.
  NES_DEVICE void start(bool fresh) {
    team.meet();
    if (fresh) load();
    team.meet();
    if (fresh) {
      get<N>(shared + kFirst + j * kRow, row0);
      NES_UNROLL for (int k = 0; k < N; ++k) {
        column0[k] = shared[kFirst + k * kRow + j];
        column1[k] = shared[kSecond + k * kRow + j];
      }
    }
    float gain[2][2];
    gains(joint, gain);
    const float top[2] = {team.largest(larger(magnitude(pay0[0]), magnitude(pay0[1]))),
                          team.largest(larger(magnitude(pay1[0]), magnitude(pay1[1])))};
    if (fresh) {
      NES_UNROLL for (int p = 0; p < 2; ++p) {
        // A row of zeros, "0 <= epsilon", never binds, but would force its slack to zero. Its limit
        // is therefore raised.
        const float epsilon = args.epsilon[2ll * progress.game + p];
        const bool bound_by = !(top[p] == 0.f) || epsilon < 0.f;
        binds[p] = bound_by ? 1.f : 0.f;
        limit[p] = bound_by ? epsilon : 1.f;
        NES_UNROLL for (int s = 0; s < 2; ++s) {
          slack[p][s] = where_row(p, s, larger(row_limit(p, s) - gain[p][s], kStartSlack));
        }
      }
    }
    float next_pull[2], next_off[2][2], next_excess, error, merit;
    measure(joint, bound, slack, dual, shift, next_pull, next_off, next_excess, error, merit);
    if (!fresh) return;
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      pull[s] = next_pull[s];
      NES_UNROLL for (int p = 0; p < 2; ++p) off[p][s] = next_off[p][s];
    }
    excess = next_excess;
    progress.begin(error, merit);
  }

  // Writes the point to the memory of the answer.
  NES_DEVICE void write_point() const {
    const long long game = progress.game;
    const int sizes[2] = {Padded ? args.n : N, Padded ? args.m : N};
    const float scale = reciprocal(excess + 1.f);
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      const int i = at[s];
      if (!Padded || (i < sizes[0] && j < sizes[1])) {
        args.joint[(game * sizes[0] + i) * sizes[1] + j] = where(s, joint[s] * scale);
      }
      NES_UNROLL for (int p = 0; p < 2; ++p) {
        if (!Padded || (i < sizes[p] && j < sizes[p])) {
          args.duals[p][(game * sizes[p] + i) * sizes[p] + j] =
              where_row(p, s, row_binds(p, s) * dual[p][s]);
        }
      }
    }
  }
};

}  // namespace nes
