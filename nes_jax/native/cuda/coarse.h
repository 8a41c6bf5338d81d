// Coarse correlated equilibria of two-player games, with all numbers of a game in registers.
//
// A team of lanes holds a game of N x N strategies, or of fewer (`Padded`). Lane l of the team has
// the rows l R ... l R + R - 1 of the joint and of both players' payoffs (R = N / lanes), the duals
// of these strategies of both players, and the 2 R rows of the 2 N x 2 N Newton matrix that belong
// to these duals. The first axis of arrays [2][R] is the player. Shared memory serves to transpose
// and to broadcast while the matrix is computed.
//
// This is the method of nes_jax/exact with the Newton system reduced to the duals. It differs in
// rounding only: factors are L D L' instead of L L', and the stationarity is stored with the
// multiplier of the bound added, which the right-hand sides would add again. Strategies that do not
// exist have neither joint strategies nor duals.
//
// The whole Newton step is one file because its parts share the numbers in the registers of a lane.
#pragma once
#include "device.h"

namespace nes {

// State and steps of the method for one team, as seen from one of its lanes.
template <int N, bool Padded>
struct Coarse {
  static constexpr int kTeam = team_lanes(false, N);
  static constexpr int R = N / kTeam;
  static constexpr int D = 2 * N;
  // Number of blocks on a multiprocessor, which the registers limit.
  static constexpr int kBlocks = N >= 8 ? 2 : 3;
  // Starting values, as in nes_jax/exact.
  static constexpr float kStartDual = 0.1f, kStartBound = 0.5f, kStartSlack = 0.3f;
  // Layout of a team's shared memory, in floats: h0 transposed, h1, weights, and the mass of each
  // row. The parts of two teams begin four banks apart.
  static constexpr int kFirst = 0, kSecond = N * N, kWeights = 2 * N * N, kRows = 3 * N * N;
  static constexpr int kShared = (3 * N * N + N + 27) / 32 * 32 + 4;

  const Arguments& args;
  float* const shared;
  Team<kTeam> team;
  Progress progress;

  // The game: payoffs of both players.
  float pay0[R][N], pay1[R][N];
  // Right-hand side of each player's constraints.
  float limit[2];
  // 1 for a player whose constraints can bind, and 0 for a player with constant payoffs.
  float binds[2];
  // Logarithm of the uniform joint.
  float uniform;
  // Number of joint strategies and constraints.
  float count;
  // Whether joint strategy (r, j) exists, in bit r N + j.
  unsigned cells;
  // Whether this lane's strategy r of player p exists, in bit 2 r + p.
  unsigned own;
  // The point: joint, multiplier of its bound, slack, duals and multiplier of the sum.
  float joint[R][N], bound[R][N], slack[2][R], dual[2][R], shift;
  // Residuals of the point. `pull` is the stationarity plus the multiplier of the bound.
  float pull[R][N], off[2][R], excess;
  // The Newton system: weights, matrix and factor, pivots' reciprocals, amounts added to pivots,
  // least pivots, and border.
  float weight[R][N], matrix[2][R][D], inverse[2][R], extra[2][R], least[2][R];
  float border[2][R], inverse_mass;

  NES_DEVICE Coarse(const Arguments& arguments, float* memory, int thread)
      : args(arguments), shared(memory) {
    team.lane = thread % kTeam;
    team.warp_lane = thread % kWarp;
    progress.clear();
    NES_UNROLL for (int r = 0; r < R; ++r) {
      NES_UNROLL for (int j = 0; j < N; ++j) {
        pay0[r][j] = pay1[r][j] = pull[r][j] = 0.f;
        joint[r][j] = bound[r][j] = 1.f;
      }
      NES_UNROLL for (int p = 0; p < 2; ++p) {
        slack[p][r] = dual[p][r] = 1.f;
        off[p][r] = 0.f;
      }
    }
    limit[0] = limit[1] = binds[0] = binds[1] = count = 1.f;
    shift = excess = uniform = 0.f;
    cells = own = kAllLanes;
  }

  // Whether the joint strategy (r, j) of this lane exists.
  NES_DEVICE bool exists(int r, int j) const {
    return !Padded || (cells >> (r * N + j) & 1u) != 0;
  }
  // Whether strategy r of a player exists in this lane.
  NES_DEVICE bool has(int player, int r) const {
    return !Padded || (own >> (2 * r + player) & 1u) != 0;
  }
  // Returns x, or 0 if the joint strategy or the row does not exist.
  NES_DEVICE float where(int r, int j, float x) const { return choose(exists(r, j), x, 0.f); }
  NES_DEVICE float where_row(int player, int r, float x) const {
    return choose(has(player, r), x, 0.f);
  }

  // Sums N values over lanes. Each lane gets the sums that belong to its own strategies.
  NES_DEVICE void scatter(float (&x)[N], float (&mine)[R]) const {
    halve<kTeam / 2>(x);
    NES_UNROLL for (int r = 0; r < R; ++r) mine[r] = x[r];
  }
  // One step of `scatter`: of the first 2 Mask R values, a lane keeps the half that the bit `Mask`
  // of its number selects, and adds the other lane's values.
  template <int Mask>
  NES_DEVICE void halve(float (&x)[N]) const {
    if constexpr (Mask > 0) {
      constexpr int half = Mask * R;
      const bool upper = (team.lane & Mask) != 0;
      NES_UNROLL for (int i = 0; i < half; ++i) {
        const float sent = choose(upper, x[i], x[half + i]);
        x[i] = choose(upper, x[half + i], x[i]) + team.across(sent, Mask);
      }
      halve<Mask / 2>(x);
    }
  }
  // Collects the values of all lanes in every lane.
  NES_DEVICE void gather(const float (&mine)[R], float (&x)[N]) const {
    NES_UNROLL for (int j = 0; j < N; ++j) x[j] = team.from(mine[j % R], j / R);
  }
  // Sums N values over lanes. Every lane gets all sums.
  NES_DEVICE void add_lanes(float (&x)[N]) const {
    if constexpr (kTeam >= 8) {
      float mine[R];
      scatter(x, mine);
      gather(mine, x);
    } else {
      NES_UNROLL for (int j = 0; j < N; ++j) x[j] = team.sum(x[j]);
    }
  }

  // Computes the gains A x and the sum of x, for any real weights x.
  NES_DEVICE void gains(const float (&x)[R][N], float (&gain)[2][R], float& total) const {
    float column[N], deviating[N], kept0 = 0.f, kept1 = 0.f;
    NES_UNROLL for (int j = 0; j < N; ++j) column[j] = deviating[j] = 0.f;
    NES_UNROLL for (int r = 0; r < R; ++r) {
      float row = 0.f, first = 0.f, second = 0.f;
      NES_UNROLL for (int j = 0; j < N; ++j) {
        column[j] += x[r][j];
        row += x[r][j];
        first += pay0[r][j] * x[r][j];
        second += pay1[r][j] * x[r][j];
      }
      NES_UNROLL for (int j = 0; j < N; ++j) deviating[j] += pay1[r][j] * row;
      kept0 += first;
      kept1 += second;
    }
    add_lanes(column);
    scatter(deviating, gain[1]);
    kept0 = team.sum(kept0);
    kept1 = team.sum(kept1);
    total = pairwise<N>(column);
    NES_UNROLL for (int r = 0; r < R; ++r) {
      float value = 0.f;
      NES_UNROLL for (int j = 0; j < N; ++j) value += pay0[r][j] * column[j];
      gain[0][r] = value - kept0;
      gain[1][r] -= kept1;
    }
  }

  // Parts of A' alpha, which duals take from the logits. The entry of row r and column j is
  // value0[j] + value1[r] - sum0 pay0[r][j] - sum1 pay1[r][j].
  struct Taken {
    float value0[N], value1[R], sum0, sum1;
  };
  NES_DEVICE Taken logits(const float (&a)[2][R]) const {
    Taken t;
    float sum = 0.f, all[N];
    NES_UNROLL for (int j = 0; j < N; ++j) t.value0[j] = 0.f;
    NES_UNROLL for (int r = 0; r < R; ++r) {
      sum += a[0][r];
      NES_UNROLL for (int j = 0; j < N; ++j) t.value0[j] += a[0][r] * pay0[r][j];
    }
    add_lanes(t.value0);
    t.sum0 = team.sum(sum);
    gather(a[1], all);
    t.sum1 = pairwise<N>(all);
    NES_UNROLL for (int r = 0; r < R; ++r) {
      t.value1[r] = 0.f;
      NES_UNROLL for (int j = 0; j < N; ++j) t.value1[r] += all[j] * pay1[r][j];
    }
    return t;
  }
  NES_DEVICE float taken(const Taken& t, int r, int j) const {
    return (t.value0[j] + t.value1[r]) - t.sum0 * pay0[r][j] - t.sum1 * pay1[r][j];
  }

  // Logarithm of the target joint. The joint strategy must exist.
  NES_DEVICE float log_target(int r, int j) const {
    if (args.log_target == nullptr) return uniform;
    const int n = Padded ? args.n : N, m = Padded ? args.m : N;
    const long long row = static_cast<long long>(progress.game) * n + team.lane * R + r;
    return args.log_target[row * m + j];
  }

  // Computes the residuals of a point, its error and its merit, as nes_jax/exact does.
  NES_DEVICE void measure(const float (&x)[R][N], const float (&z)[R][N], const float (&s)[2][R],
                          const float (&a)[2][R], float lambda, float (&next_pull)[R][N],
                          float (&next_off)[2][R], float& next_excess, float& error,
                          float& merit) const {
    float gain[2][R], total;
    const Taken t = logits(a);
    gains(x, gain, total);
    float peak = -infinity();
    NES_UNROLL for (int r = 0; r < R; ++r) {
      NES_UNROLL for (int j = 0; j < N; ++j) {
        if (exists(r, j)) peak = larger(peak, -taken(t, r, j));
      }
    }
    peak = team.largest(peak);
    // Gains and gap are those of the answer, which is the joint divided by its sum.
    const float scale = reciprocal(total);
    float partition = 0.f, entropy = 0.f, complementary = 0.f, product = 0.f;
    float worst = 0.f, worst_off[2] = {0.f, 0.f};
    NES_UNROLL for (int r = 0; r < R; ++r) {
      float partition_row = 0.f, entropy_row = 0.f, product_row = 0.f;
      NES_UNROLL for (int j = 0; j < N; ++j) {
        const float target = exists(r, j) ? log_target(r, j) : 0.f;
        const float takes = taken(t, r, j);
        const float ratio = log_of(x[r][j]) - target;
        const float below = smaller(-takes - peak, 0.f);
        next_pull[r][j] = where(r, j, ratio + takes + lambda);
        partition_row += where(r, j, exp_of(target + below));
        entropy_row += where(r, j, x[r][j] * (ratio - below));
        product_row += where(r, j, x[r][j] * z[r][j]);
      }
      NES_UNROLL for (int p = 0; p < 2; ++p) {
        next_off[p][r] = where_row(p, r, gain[p][r] + s[p][r] - limit[p]);
        const float left = where_row(p, r, limit[p] - gain[p][r] * scale);
        worst = larger(worst, -left);
        worst_off[p] = larger(worst_off[p], magnitude(next_off[p][r]));
        complementary += binds[p] * a[p][r] * left;
        product_row += where_row(p, r, s[p][r] * a[p][r]);
      }
      partition += partition_row;
      entropy += entropy_row;
      product += product_row;
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

  // Computes the Newton matrix A P^-1 A' and its border from centred payoffs, by the formulas of
  // nes_jax/deviation.py.
  NES_DEVICE void covariance() {
    float mass0[N], mean0[N], mass1[R], h0[R][N], h1[R][N];
    NES_UNROLL for (int j = 0; j < N; ++j) mass0[j] = mean0[j] = 0.f;
    NES_UNROLL for (int r = 0; r < R; ++r) {
      float mass = 0.f, mean = 0.f;
      NES_UNROLL for (int j = 0; j < N; ++j) {
        const float x = joint[r][j] * reciprocal(bound[r][j] + 1.f);
        weight[r][j] = x;
        mass += x;
        mean += pay1[r][j] * x;
        mass0[j] += x;
        mean0[j] += pay0[r][j] * x;
      }
      mass1[r] = mass;
      mean *= reciprocal(Padded ? larger(mass, kTiny) : mass);
      NES_UNROLL for (int j = 0; j < N; ++j) h1[r][j] = pay1[r][j] - mean;
    }
    add_lanes(mass0);
    add_lanes(mean0);
    inverse_mass = reciprocal(pairwise<N>(mass0));
    NES_UNROLL for (int j = 0; j < N; ++j) {
      mean0[j] *= reciprocal(Padded ? larger(mass0[j], kTiny) : mass0[j]);
    }
    float both00 = 0.f, both01 = 0.f, both11 = 0.f, carried01[N], carried10[R], border1[N];
    NES_UNROLL for (int j = 0; j < N; ++j) carried01[j] = border1[j] = 0.f;
    NES_UNROLL for (int r = 0; r < R; ++r) {
      float mean = 0.f, carried = 0.f, row00 = 0.f, row01 = 0.f, row11 = 0.f;
      NES_UNROLL for (int j = 0; j < N; ++j) {
        const float x = pay0[r][j] - mean0[j], y = h1[r][j];
        const float wx = weight[r][j] * x, wy = weight[r][j] * y;
        h0[r][j] = x;
        mean += x * mass0[j];
        border1[j] += y * mass1[r];
        carried += wx;
        carried01[j] += wy;
        row00 += wx * x;
        row01 += wx * y;
        row11 += wy * y;
      }
      carried10[r] = carried;
      border[0][r] = mean;
      both00 += row00;
      both01 += row01;
      both11 += row11;
      NES_UNROLL for (int j = 0; j < N; ++j) h0[r][j] -= mean * inverse_mass;
    }
    both00 = team.sum(both00);
    both01 = team.sum(both01);
    both11 = team.sum(both11);
    add_lanes(carried01);
    scatter(border1, border[1]);
    gather(border[1], border1);
    float cross01[R], cross10[N];
    NES_UNROLL for (int j = 0; j < N; ++j) cross10[j] = 0.f;
    NES_UNROLL for (int r = 0; r < R; ++r) {
      float value = 0.f;
      NES_UNROLL for (int j = 0; j < N; ++j) {
        h1[r][j] -= border1[j] * inverse_mass;
        cross10[j] += h1[r][j] * carried10[r];
        value += h0[r][j] * carried01[j];
      }
      cross01[r] = value;
    }
    add_lanes(cross10);

    // The other lanes read columns of h0, and rows of the other arrays.
    team.meet();
    NES_UNROLL for (int j = 0; j < N; ++j) {
      float part[R];
      NES_UNROLL for (int r = 0; r < R; ++r) part[r] = h0[r][j];
      put<R>(shared + kFirst + j * N + team.lane * R, part);
    }
    NES_UNROLL for (int r = 0; r < R; ++r) {
      put<N>(shared + kSecond + (team.lane * R + r) * N, h1[r]);
      put<N>(shared + kWeights + (team.lane * R + r) * N, weight[r]);
    }
    put<R>(shared + kRows + team.lane * R, mass1);
    team.meet();
    NES_UNROLL for (int r = 0; r < R; ++r) {
      NES_UNROLL for (int k = 0; k < N; ++k) {
        matrix[0][r][k] = both00;
        matrix[0][r][N + k] = both01 - cross01[r] - cross10[k];
        matrix[1][r][N + k] = both11;
      }
    }
    NES_UNROLL for (int j = 0; j < N; ++j) {
      float column[N];
      get<N>(shared + kFirst + j * N, column);
      NES_UNROLL for (int r = 0; r < R; ++r) {
        const float x = h0[r][j] * mass0[j];
        NES_UNROLL for (int k = 0; k < N; ++k) matrix[0][r][k] += x * column[k];
      }
    }
    NES_UNROLL for (int i = 0; i < N; ++i) {
      float w[N], h[N], mine[R];
      get<N>(shared + kWeights + i * N, w);
      get<N>(shared + kSecond + i * N, h);
      get<R>(shared + kSecond + i * N + team.lane * R, mine);
      const float mass = shared[kRows + i];
      NES_UNROLL for (int r = 0; r < R; ++r) {
        float inner = 0.f;
        NES_UNROLL for (int j = 0; j < N; ++j) inner += h0[r][j] * w[j];
        const float x = mine[r] * mass;
        NES_UNROLL for (int k = 0; k < N; ++k) {
          matrix[0][r][N + k] += inner * h[k];
          matrix[1][r][N + k] += x * h[k];
        }
      }
    }
    // The block below the diagonal is the transpose of the block above it.
    team.meet();
    NES_UNROLL for (int r = 0; r < R; ++r) {
      float row[N];
      NES_UNROLL for (int k = 0; k < N; ++k) row[k] = matrix[0][r][N + k];
      put<N>(shared + kWeights + (team.lane * R + r) * N, row);
    }
    team.meet();
    NES_UNROLL for (int i = 0; i < N; ++i) {
      float mine[R];
      get<R>(shared + kWeights + i * N + team.lane * R, mine);
      NES_UNROLL for (int r = 0; r < R; ++r) matrix[1][r][i] = mine[r];
    }
    // `extra` is added to a pivot during the factorisation, and `least` is the smallest pivot.
    NES_UNROLL for (int p = 0; p < 2; ++p) {
      NES_UNROLL for (int r = 0; r < R; ++r) {
        float diagonal = matrix[p][r][p * N + r];
        NES_UNROLL for (int l = 1; l < kTeam; ++l) {
          diagonal = choose(team.lane == l, matrix[p][r][p * N + l * R + r], diagonal);
        }
        const float ratio = has(p, r) ? slack[p][r] * reciprocal(dual[p][r]) : kAbsentRatio;
        const float full = diagonal + ratio, raised = progress.damping * full;
        extra[p][r] = ratio + raised;
        least[p][r] = (full + raised) * kFloor;
      }
    }
  }

  // Factors the matrix into L D L' in place, with L below the diagonal and D L' above it. The R
  // rows that a lane has of one player are eliminated together: first among themselves by their
  // lane, then from the rows of the other lanes.
  NES_DEVICE void factor() {
    NES_UNROLL for (int step = 0; step < 2 * kTeam; ++step) {
      const int p = step / kTeam, owner = step % kTeam, first = p * N + owner * R;
      const bool owns = team.lane == owner, later = team.lane > owner;
      float pivot[R];
      NES_UNROLL for (int r = 0; r < R; ++r) {
        const float d = matrix[p][r][first + r] + extra[p][r];
        pivot[r] = reciprocal(larger(d + least[p][r], least[p][r]));
        inverse[p][r] = choose(owns, pivot[r], inverse[p][r]);
        NES_UNROLL for (int below = r + 1; below < R; ++below) {
          const float x = matrix[p][below][first + r] * pivot[r], used = choose(owns, x, 0.f);
          NES_UNROLL for (int j = first + r + 1; j < D; ++j) {
            matrix[p][below][j] -= used * matrix[p][r][j];
          }
          matrix[p][below][first + r] = choose(owns, x, matrix[p][below][first + r]);
        }
      }
      NES_UNROLL for (int r = 0; r < R; ++r) {
        const float root = team.from(pivot[r], owner);
        float row[D];
        NES_UNROLL for (int j = first + r + 1; j < D; ++j) {
          row[j] = team.from(matrix[p][r][j], owner);
        }
        NES_UNROLL for (int q = p; q < 2; ++q) {
          if (q == p && owner == kTeam - 1) continue;  // There is no later lane.
          const bool all = q > p;
          NES_UNROLL for (int below = 0; below < R; ++below) {
            const float x = matrix[q][below][first + r] * root;
            const float used = choose(all || later, x, 0.f);
            matrix[q][below][first + r] = choose(all || later, x, matrix[q][below][first + r]);
            NES_UNROLL for (int j = first + r + 1; j < D; ++j) {
              matrix[q][below][j] -= used * row[j];
            }
          }
        }
      }
    }
  }

  // Solves the factored system with a right-hand side, in place.
  NES_DEVICE void substitute(float (&b)[2][R]) const {
    NES_UNROLL for (int step = 0; step < 2 * kTeam; ++step) {
      const int p = step / kTeam, owner = step % kTeam, first = p * N + owner * R;
      float y[R], all[R];
      NES_UNROLL for (int r = 0; r < R; ++r) {
        y[r] = b[p][r];
        NES_UNROLL for (int k = 0; k < r; ++k) y[r] -= matrix[p][r][first + k] * y[k];
      }
      NES_UNROLL for (int r = 0; r < R; ++r) all[r] = team.from(y[r], owner);
      eliminate(b, y, all, p, owner, first, p, 1, team.lane > owner);
    }
    NES_UNROLL for (int step = 2 * kTeam - 1; step >= 0; --step) {
      const int p = step / kTeam, owner = step % kTeam, first = p * N + owner * R;
      float y[R], all[R];
      NES_UNROLL for (int r = R - 1; r >= 0; --r) {
        y[r] = b[p][r];
        NES_UNROLL for (int k = r + 1; k < R; ++k) y[r] -= matrix[p][r][first + k] * y[k];
        y[r] *= inverse[p][r];
      }
      NES_UNROLL for (int r = 0; r < R; ++r) all[r] = team.from(y[r], owner);
      eliminate(b, y, all, p, owner, first, 0, p, team.lane < owner);
    }
  }
  // Subtracts the contribution of R solved values from the right-hand sides of players `from` to
  // `to`. For player p this happens in lanes with `open` only, and the owner of the values stores
  // them.
  NES_DEVICE void eliminate(float (&b)[2][R], const float (&y)[R], const float (&all)[R], int p,
                            int owner, int first, int from, int to, bool open) const {
    NES_UNROLL for (int q = from; q <= to; ++q) {
      NES_UNROLL for (int r = 0; r < R; ++r) {
        float x = b[q][r];
        NES_UNROLL for (int k = 0; k < R; ++k) x -= matrix[q][r][first + k] * all[k];
        if (q == p) x = choose(open, x, choose(team.lane == owner, y[r], b[q][r]));
        b[q][r] = x;
      }
    }
  }

  // Takes one predictor-corrector step.
  NES_DEVICE void step() {
    covariance();
    factor();
    float d_joint[R][N], d_bound[R][N], d_slack[2][R], d_dual[2][R], d_shift;
    // Reciprocals of the steps at which the first primal and the first dual variable reach zero.
    float primal, duals;
    // Before each pass, d_bound holds the aim of the products sigma z, and d_slack the aim of the
    // products s alpha. The aims of the first pass, the predictor, are 0.
    NES_UNROLL for (int r = 0; r < R; ++r) {
      NES_UNROLL for (int j = 0; j < N; ++j) d_bound[r][j] = 0.f;
      d_slack[0][r] = d_slack[1][r] = 0.f;
    }
    NES_ROLL for (int pass = 0; pass < 2; ++pass) {
      NES_UNROLL for (int r = 0; r < R; ++r) {
        NES_UNROLL for (int j = 0; j < N; ++j) {
          const float inverse_joint = where(r, j, reciprocal(joint[r][j]));
          d_joint[r][j] = weight[r][j] * (d_bound[r][j] * inverse_joint - pull[r][j]);
        }
      }
      float first;
      gains(d_joint, d_dual, first);
      first += excess;
      const float ratio = first * inverse_mass;
      NES_UNROLL for (int p = 0; p < 2; ++p) {
        NES_UNROLL for (int r = 0; r < R; ++r) {
          const float inverse_dual = where_row(p, r, reciprocal(dual[p][r]));
          const float right = slack[p][r] - d_slack[p][r] * inverse_dual - off[p][r];
          d_dual[p][r] -= right + border[p][r] * ratio;
        }
      }
      substitute(d_dual);
      float dot = 0.f;
      NES_UNROLL for (int r = 0; r < R; ++r) {
        NES_UNROLL for (int p = 0; p < 2; ++p) {
          d_dual[p][r] = where_row(p, r, d_dual[p][r]);
          dot += border[p][r] * d_dual[p][r];
        }
      }
      d_shift = (first - team.sum(dot)) * inverse_mass;
      const Taken t = logits(d_dual);
      primal = duals = 0.f;
      NES_UNROLL for (int r = 0; r < R; ++r) {
        NES_UNROLL for (int j = 0; j < N; ++j) {
          const float inverse_joint = where(r, j, reciprocal(joint[r][j]));
          const float x = d_joint[r][j] - weight[r][j] * (taken(t, r, j) + d_shift);
          const float y = (d_bound[r][j] - bound[r][j] * x) * inverse_joint - bound[r][j];
          d_joint[r][j] = x;
          d_bound[r][j] = y;
          primal = larger(primal, -x * inverse_joint);
          duals = larger(duals, where(r, j, -y * reciprocal(bound[r][j])));
        }
        NES_UNROLL for (int p = 0; p < 2; ++p) {
          const float inverse_dual = where_row(p, r, reciprocal(dual[p][r]));
          const float x =
              (d_slack[p][r] - slack[p][r] * d_dual[p][r]) * inverse_dual - slack[p][r];
          d_slack[p][r] = x;
          primal = larger(primal, where_row(p, r, -x * reciprocal(slack[p][r])));
          duals = larger(duals, -d_dual[p][r] * inverse_dual);
        }
      }
      primal = team.largest(primal);
      duals = team.largest(duals);
      if (pass == 0) {
        const float length = reciprocal(larger(1.f, larger(primal, duals)));
        float now = 0.f, then = 0.f;
        NES_UNROLL for (int r = 0; r < R; ++r) {
          float now_row = 0.f, then_row = 0.f;
          NES_UNROLL for (int j = 0; j < N; ++j) {
            now_row += joint[r][j] * bound[r][j];
            then_row += (joint[r][j] + length * d_joint[r][j]) *
                        (bound[r][j] + length * d_bound[r][j]);
          }
          NES_UNROLL for (int p = 0; p < 2; ++p) {
            now_row += slack[p][r] * dual[p][r];
            then_row += (slack[p][r] + length * d_slack[p][r]) *
                        (dual[p][r] + length * d_dual[p][r]);
          }
          now += now_row;
          then += then_row;
        }
        now = team.sum(now);
        then = team.sum(then);
        const float aim = centring(now, then, reciprocal(count));
        const float second = length < kShortStep ? length : 1.f;
        NES_UNROLL for (int r = 0; r < R; ++r) {
          NES_UNROLL for (int j = 0; j < N; ++j) {
            d_bound[r][j] = aim - second * d_joint[r][j] * d_bound[r][j];
          }
          NES_UNROLL for (int p = 0; p < 2; ++p) {
            d_slack[p][r] = aim - second * d_slack[p][r] * d_dual[p][r];
          }
        }
      }
    }
    primal = step_length(primal);
    duals = step_length(duals);
    // The next point takes the place of the direction.
    NES_UNROLL for (int r = 0; r < R; ++r) {
      NES_UNROLL for (int j = 0; j < N; ++j) {
        d_joint[r][j] = larger(joint[r][j] + primal * d_joint[r][j], kTiny);
        d_bound[r][j] = larger(bound[r][j] + duals * d_bound[r][j], kTiny);
      }
      NES_UNROLL for (int p = 0; p < 2; ++p) {
        d_slack[p][r] = larger(slack[p][r] + primal * d_slack[p][r], kTiny);
        d_dual[p][r] = larger(dual[p][r] + duals * d_dual[p][r], kTiny);
      }
    }
    d_shift = shift + duals * d_shift;
    float next_pull[R][N], next_off[2][R], next_excess, error, merit;
    measure(d_joint, d_bound, d_slack, d_dual, d_shift, next_pull, next_off, next_excess, error,
            merit);
    bool leaves_best;
    const bool move = progress.judge(args, error, merit, leaves_best);
    if (leaves_best) write_point();
    NES_UNROLL for (int r = 0; r < R; ++r) {
      NES_UNROLL for (int j = 0; j < N; ++j) {
        joint[r][j] = choose(move, d_joint[r][j], joint[r][j]);
        bound[r][j] = choose(move, d_bound[r][j], bound[r][j]);
        pull[r][j] = choose(move, next_pull[r][j], pull[r][j]);
      }
      NES_UNROLL for (int p = 0; p < 2; ++p) {
        slack[p][r] = choose(move, d_slack[p][r], slack[p][r]);
        dual[p][r] = choose(move, d_dual[p][r], dual[p][r]);
        off[p][r] = choose(move, next_off[p][r], off[p][r]);
      }
    }
    shift = choose(move, d_shift, shift);
    excess = choose(move, next_excess, excess);
  }

  // Sets `cells` and `own`, and returns the number of strategies of each player that exist.
  NES_DEVICE void find_strategies(int& rows, int& columns) {
    unsigned present[2];
    existing<N>(args, progress.game, present);
    rows = __popc(present[0]);
    columns = __popc(present[1]);
    cells = own = 0u;
    NES_UNROLL for (int r = 0; r < R; ++r) {
      const int mine = team.lane * R + r;
      cells |= (present[0] >> mine & 1u) ? present[1] << (r * N) : 0u;
      NES_UNROLL for (int p = 0; p < 2; ++p) own |= (present[p] >> mine & 1u) << (2 * r + p);
    }
  }

  // Loads the game of a fresh team, and sets its starting joint and duals.
  NES_DEVICE void load() {
    const long long game = progress.game;
    int rows = N, columns = N;
    if constexpr (Padded) {
      find_strategies(rows, columns);
      const float* from = args.payoffs + game * (2 * args.n * args.m);
      NES_UNROLL for (int r = 0; r < R; ++r) {
        NES_UNROLL for (int j = 0; j < N; ++j) {
          const int at = (team.lane * R + r) * args.m + j;
          pay0[r][j] = exists(r, j) ? from[at] : 0.f;
          pay1[r][j] = exists(r, j) ? from[args.n * args.m + at] : 0.f;
        }
      }
    } else {
      const float* from = args.payoffs + game * (2 * N * N) + team.lane * R * N;
      NES_UNROLL for (int r = 0; r < R; ++r) {
        get<N>(from + r * N, pay0[r]);
        get<N>(from + N * N + r * N, pay1[r]);
      }
    }
    const float size = static_cast<float>(rows * columns);
    count = size + static_cast<float>(rows + columns);
    uniform = -log_of(size);
    const float share = reciprocal(size);
    NES_UNROLL for (int r = 0; r < R; ++r) {
      NES_UNROLL for (int j = 0; j < N; ++j) {
        const float target = exists(r, j) && args.log_target ? exp_of(log_target(r, j)) : share;
        joint[r][j] = where(r, j, 0.9f * target + 0.1f * share);
        bound[r][j] = where(r, j, kStartBound * share * reciprocal(joint[r][j]));
      }
      dual[0][r] = where_row(0, r, kStartDual);
      dual[1][r] = where_row(1, r, kStartDual);
    }
    shift = 0.f;
  }

  // Sets the starting points of fresh teams. All lanes of the warp must call it.
  NES_DEVICE void start(bool fresh) {
    if (fresh) load();
    float top[2] = {0.f, 0.f};
    NES_UNROLL for (int r = 0; r < R; ++r) {
      NES_UNROLL for (int j = 0; j < N; ++j) {
        top[0] = larger(top[0], magnitude(pay0[r][j]));
        top[1] = larger(top[1], magnitude(pay1[r][j]));
      }
    }
    float gain[2][R], total;
    gains(joint, gain, total);
    NES_UNROLL for (int p = 0; p < 2; ++p) {
      top[p] = team.largest(top[p]);
      if (fresh) {
        // A row of zeros, "0 <= epsilon", never binds, but would force its slack to zero. Its limit
        // is therefore raised.
        const float epsilon = args.epsilon[2ll * progress.game + p];
        const bool bound_by = !(top[p] == 0.f) || epsilon < 0.f;
        binds[p] = bound_by ? 1.f : 0.f;
        limit[p] = bound_by ? epsilon : 1.f;
        NES_UNROLL for (int r = 0; r < R; ++r) {
          slack[p][r] = where_row(p, r, larger(limit[p] - gain[p][r], kStartSlack));
        }
      }
    }
    float next_pull[R][N], next_off[2][R], next_excess, error, merit;
    measure(joint, bound, slack, dual, shift, next_pull, next_off, next_excess, error, merit);
    if (!fresh) return;
    NES_UNROLL for (int r = 0; r < R; ++r) {
      NES_UNROLL for (int j = 0; j < N; ++j) pull[r][j] = next_pull[r][j];
      NES_UNROLL for (int p = 0; p < 2; ++p) off[p][r] = next_off[p][r];
    }
    excess = next_excess;
    progress.begin(error, merit);
  }

  // Writes the point to the memory of the answer.
  NES_DEVICE void write_point() const {
    const long long game = progress.game;
    const float scale = reciprocal(excess + 1.f);
    NES_UNROLL for (int r = 0; r < R; ++r) {
      const int i = team.lane * R + r;
      float row[N];
      NES_UNROLL for (int j = 0; j < N; ++j) row[j] = where(r, j, joint[r][j] * scale);
      if constexpr (Padded) {
        NES_UNROLL for (int j = 0; j < N; ++j) {
          if (i < args.n && j < args.m) args.joint[(game * args.n + i) * args.m + j] = row[j];
        }
      } else {
        put<N>(args.joint + (game * N + i) * N, row);
      }
    }
    NES_UNROLL for (int p = 0; p < 2; ++p) {
      float row[R];
      NES_UNROLL for (int r = 0; r < R; ++r) row[r] = where_row(p, r, binds[p] * dual[p][r]);
      if constexpr (Padded) {
        const int size = p == 0 ? args.n : args.m;
        NES_UNROLL for (int r = 0; r < R; ++r) {
          const int k = team.lane * R + r;
          if (k < size) args.duals[p][game * size + k] = row[r];
        }
      } else {
        put<R>(args.duals[p] + game * N + team.lane * R, row);
      }
    }
  }
};

}  // namespace nes
