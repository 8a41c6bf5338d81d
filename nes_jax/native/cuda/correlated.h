// Correlated equilibria of two-player games, one team of lanes a game.
//
// A game of N x N strategies, or of fewer (`Padded`), has E = N N joint strategies and as many
// duals a player. Each of the E / 2 lanes of a team has two of each, its sets 0 and 1: with
// j = lane % N and i = lane / N (+ N / 2 in set 1) these are
//
//   joint strategy   (i, j), number i N + j
//   duals            recommended i, deviation to j, of player 0 and of player 1
//
// This is the method of nes_jax/exact.py with `_newton_joint`: the E x E Newton matrix, scaled by
// the root of the weights, is factored in shared memory, panel by panel of N columns (those of one
// strategy of player 0). What duals take from logits is summed over differences of payoffs; apart
// from that and from rounding nothing differs. Strategies that do not exist have neither joint
// strategies nor duals, and count for nothing; a dual on the diagonal is no deviation, and counts
// as it does there.
#pragma once
#include "device.h"

namespace nes {

template <int N, bool Padded>
struct Correlated {
  static constexpr int E = N * N;
  static constexpr int kTeam = team_lanes(true, N);
  static constexpr int kHalf = N / 2;  // values of i in a set
  static constexpr int kBlocks = 4;    // of a multiprocessor
  static constexpr float kStartDual = 3.f, kStartBound = 3.f, kStartSlack = 1.f;
  // Shared memory of a team, in floats: the payoffs of both players by i and j, two tables for what
  // lanes tell each other, and the factor. Rows of tables begin in different banks.
  static constexpr int kRow = N == 8 ? 12 : N, kTable = N * kRow;
  static constexpr int kFirst = 0, kSecond = kTable, kX = 2 * kTable, kY = 3 * kTable;
  static constexpr int kFactor = 4 * kTable;
  static constexpr int kPad = N >= 4 ? 4 : 0;
  static constexpr int kShared = kFactor + N * (N * (E + kPad) - N * (N * (N - 1) / 2));

  const Arguments& args;
  float* const shared;
  Team<kTeam> team;
  Progress progress;
  int at[2], j;  // this lane's i of both sets, and its j

  // The game.
  float pay0[2], pay1[2];  // of this lane's joint strategies
  float row0[N];           // what player 0 gets for j against each strategy of player 1
  float column0[N];        // what it gets for each of its strategies against j
  float column1[N];        // what player 1 gets for j against each strategy of player 0
  float limit[2];          // right sides of a player's rows
  float binds[2];          // 1, or 0 for a player whose strategies are all worth the same
  float uniform;           // log of one over the number of joint strategies
  float count;             // of joint strategies and rows
  unsigned present;        // bits set: joint strategy; 2 + 2 player + set: row
  // The point; [2][2] go by player and set.
  float joint[2], bound[2], slack[2][2], dual[2][2], shift;
  // Its residuals; `pull` is the stationarity with the bound's multiplier added.
  float pull[2], off[2][2], excess;
  // The Newton system.
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

  NES_DEVICE bool exists(int s) const { return !Padded || (present >> s & 1u) != 0; }
  NES_DEVICE bool has(int player, int s) const {
    return !Padded || (present >> (2 + 2 * player + s) & 1u) != 0;
  }
  NES_DEVICE float where(int s, float x) const { return choose(exists(s), x, 0.f); }
  NES_DEVICE float where_row(int player, int s, float x) const {
    return choose(has(player, s), x, 0.f);
  }
  // A row that is no deviation binds nothing.
  NES_DEVICE bool diagonal(int s) const { return at[s] == j; }
  NES_DEVICE float row_limit(int p, int s) const { return choose(diagonal(s), 1.f, limit[p]); }
  NES_DEVICE float row_binds(int p, int s) const { return choose(diagonal(s), 0.f, binds[p]); }

  // Tells the team x in table X by (i, j), and y in table Y, by (j, i) if it is transposed.
  template <bool Transposed>
  NES_DEVICE void tell(const float (&x)[2], const float (&y)[2]) const {
    team.meet();
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      shared[kX + at[s] * kRow + j] = x[s];
      shared[kY + (Transposed ? j * kRow + at[s] : at[s] * kRow + j)] = y[s];
    }
    team.meet();
  }

  // A x, for any real weights x of this lane's joint strategies.
  NES_DEVICE void gains(const float (&x)[2], float (&gain)[2][2]) const {
    tell<true>(x, x);
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      float line[N], value0 = 0.f, value1 = 0.f;
      get<N>(shared + kX + at[s] * kRow, line);
      NES_UNROLL for (int k = 0; k < N; ++k) value0 += line[k] * row0[k];
      get<N>(shared + kY + at[s] * kRow, line);
      NES_UNROLL for (int k = 0; k < N; ++k) value1 += line[k] * column1[k];
      // What the recommended strategy itself is worth is on the diagonal.
      const int kept = team.lane / N * N + at[s];
      gain[0][s] = value0 - team.from(value0, kept);
      gain[1][s] = value1 - team.from(value1, kept);
    }
  }

  // A' alpha, what duals take from the logits of this lane's joint strategies.
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

  // log of the target joint; called for joint strategies that exist.
  NES_DEVICE float log_target(int s) const {
    if (args.log_target == nullptr) return uniform;
    const int n = Padded ? args.n : N, m = Padded ? args.m : N;
    return args.log_target[(static_cast<long long>(progress.game) * n + at[s]) * m + j];
  }

  // Residuals of a point, and its error and merit: `_residuals`.
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
    // Of the joint that would be answered, which sums to one.
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

  // Column c of panel p of the factor holds the rows from the panel's first one on.
  static NES_DEVICE int panel_stride(int p) { return E - p * N + kPad; }
  static NES_DEVICE int panel(int p) {
    return kFactor + N * (p * (E + kPad) - N * (p * (p - 1) / 2));
  }

  // The roots of the weights, and the ratios of duals to slacks.
  NES_DEVICE void weigh() {
    float weight[2];
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      weight[s] = joint[s] * reciprocal(bound[s] + 1.f);
      root[s] = weight[s] * inverse_root(larger(weight[s], kTiny));
    }
    tell<true>(weight, weight);
    NES_UNROLL for (int s = 0; s < 2; ++s) {
      // Expected squares of the gains.
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
      // Rows that can hold with equality only have slack that runs to 0 and duals that are rounding
      // noise: so many ulps of the row's own diagonal keep them from growing.
      NES_UNROLL for (int p = 0; p < 2; ++p) {
        const float added = dual[p][s] * (kRowUlps * kEpsilon) * square[p];
        ratio[p][s] = where_row(p, s, dual[p][s] * reciprocal(slack[p][s] + added));
      }
    }
  }

  // Factors the Newton matrix, the identity plus root A' diag(ratio) A root: L L'.
  NES_DEVICE void factor() {
    weigh();
    // For each row of this lane: its block of the matrix, which is player 0's part, and what its
    // one element in every other block, which is player 1's part, is made from.
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
  // The element of the scaled matrix in the column of (p, j).
  NES_DEVICE float crossed(const float (&across)[N], int p) const {
    float line[N], value = 0.f;
    get<N>(shared + kSecond + p * kRow, line);
    const float kept = shared[kSecond + p * kRow + j];
    NES_UNROLL for (int k = 0; k < N; ++k) value += across[k] * (line[k] - kept);
    return value * shared[kX + p * kRow + j];
  }
  // The panels whose rows on the diagonal are in one set of the lanes. Each is computed in
  // registers from the ones before it; what lanes have there of earlier rows is of no use.
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
      const int first = q * N;  // the lane of the panel's first row
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

  // Solves for right sides, in place. A row takes part from its own column on, or until it; what
  // lanes read beyond that is dropped.
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

  // One predictor-corrector step: `_step`.
  NES_DEVICE void step() {
    factor();
    float d_joint[2], d_bound[2], d_slack[2][2], d_dual[2][2], d_shift = 0.f;
    float primal = 0.f, duals = 0.f;  // reciprocals of the steps at which a variable reaches zero
    float ones[2] = {0.f, 0.f}, inverse_mass = 0.f;
    // Before a pass, the bound's direction holds what the products sigma z should become, and the
    // slack's what s alpha should become.
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
    // The point ahead takes the place of the direction.
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

  // Which strategies exist, into `present`. Returns the numbers of both players'.
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
        // A row of zeros, "0 <= epsilon", binds nothing but would pin its slack to zero.
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
