// Deviation gains as a linear operator A on joint distributions, for games in the lanes of vectors.
//
// The interior-point method (method.h) knows a game only through this operator: gains A v, logits
// A' a, and the matrices of the Newton system. The formulas are those of nes_jax/deviation.py. All
// games have one shape.
//
// The file is longer than others because it holds the operator of both concepts, CCE and CE, which
// have one interface and are read side by side.
#pragma once
#include <vector>

#include "linear.h"

namespace nes {

// Largest number of players.
constexpr int kMaxPlayers = 16;

// Numbers of strategies of a game, and the places of strategies in arrays over joint strategies.
struct Shape {
  struct Player {
    // Number of own strategies.
    int count;
    // Distance between two own strategies.
    int stride;
    // Number of plays of all other players.
    int others;
    // Index of the joint strategy of each play of the others with the first own strategy, [others].
    std::vector<int> base;
  };
  // Two players p and q, and the plays of all remaining players.
  struct Pair {
    // Distance between q's strategies among the plays of the others of p, and the same with p and q
    // exchanged.
    int step_p, step_q;
    // Place of each remaining play in an array over joint strategies, and in arrays
    // [own strategies, plays of the others] of p and of q.
    std::vector<int> joint, in_p, in_q;
  };

  // Number of joint strategies.
  int size = 1;
  int num_duals = 0;
  std::vector<Player> players;
  // First dual of each player, followed by the number of all duals.
  std::vector<int> first_dual;
  // Pairs of players, [p][q] with q < p; for CCE only.
  std::vector<std::vector<Pair>> pairs;

  Shape() = default;
  Shape(const std::vector<int>& counts, bool correlated) {
    const int n = int(counts.size());
    for (int count : counts) size *= count;
    int after = size;
    for (int count : counts) {
      after /= count;
      Player player{count, after, size / count, {}};
      for (int b = 0; b < size / (count * after); ++b)
        for (int c = 0; c < after; ++c) player.base.push_back(b * count * after + c);
      players.push_back(player);
      first_dual.push_back(num_duals);
      num_duals += correlated ? count * count : count;
    }
    first_dual.push_back(num_duals);
    if (correlated) return;
    // Distance between the strategies of q in arrays without the axis of another player.
    auto step = [&](int q, int without) {
      return without > q ? players[q].stride / counts[without] : players[q].stride;
    };
    for (int p = 0; p < n; ++p) {
      pairs.emplace_back();
      for (int q = 0; q < p; ++q) {
        Pair pair{step(q, p), step(p, q), {0}, {0}, {0}};
        for (int r = 0; r < n; ++r) {
          if (r == p || r == q) continue;
          Pair longer{pair.step_p, pair.step_q, {}, {}, {}};
          for (size_t i = 0; i < pair.joint.size(); ++i)
            for (int k = 0; k < counts[r]; ++k) {
              longer.joint.push_back(pair.joint[i] + k * players[r].stride);
              longer.in_p.push_back(pair.in_p[i] + k * step(r, p));
              longer.in_q.push_back(pair.in_q[i] + k * step(r, q));
            }
          pair = longer;
        }
        pairs[p].push_back(pair);
      }
    }
  }
};

// Allocator that hands out parts of one block of memory. Without a block it measures how much
// memory is needed.
template <class V>
class Arena {
 public:
  explicit Arena(V* memory) : next_(memory) {}
  V* take(int count) {
    V* at = next_;
    // Padding avoids distances of whole pages, at which arrays would share few cache sets.
    const int padded = count + (count >= 16 ? 5 : 0);
    used_ += padded;
    if (next_) next_ += padded;
    return at;
  }
  size_t used() const { return used_; }

 private:
  V* next_;
  size_t used_ = 0;
};

// Operator of a CCE with any number of players. Row (p, i) is the gain of player p from always
// playing i.
template <class T, int W>
struct Coarse {
  using O = Lanes<T, W>;
  using L = Linear<T, W>;
  using V = typename O::V;
  using M = typename O::M;

  const Shape* shape = nullptr;
  V* payoffs[kMaxPlayers];
  // Scratch memory.
  V *play, *value, *centred[kMaxPlayers], *masses[kMaxPlayers], *scaled, *inner;
  V* carried[kMaxPlayers][kMaxPlayers];
  V both[kMaxPlayers][kMaxPlayers];

  void lay_out(Arena<V>& arena) {
    int most = 0, largest = 0, n = int(shape->players.size());
    for (auto& player : shape->players) {
      most = std::max(most, player.count);
      largest = std::max({largest, player.count, player.others});
    }
    for (int p = 0; p < n; ++p) {
      payoffs[p] = arena.take(shape->size);
      centred[p] = arena.take(shape->size);
      masses[p] = arena.take(shape->players[p].others);
      for (int q = 0; q < n; ++q)
        if (q != p) carried[p][q] = arena.take(shape->players[p].others);
    }
    play = arena.take(largest), value = arena.take(largest);
    scaled = arena.take(shape->size), inner = arena.take(most * most);
  }

  // Computes K entries of `sum_own`.
  template <int K, class F>
  static inline void over_own(const Shape::Player& p, int r, const V* x, F f, V* out) {
    const V* at[K];
    V acc[K] = {};
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) at[k] = x + p.base[r + k];
    for (int i = 0, offset = 0; i < p.count; ++i, offset += p.stride) {
      const auto factor = f(i);
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) acc[k] += at[k][offset] * factor;
    }
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) out[r + k] = acc[k];
  }
  // Computes out[r] = sum over own strategies i of x(i, r) f(i), for plays r of the others.
  template <class F>
  static void sum_own(const Shape::Player& p, const V* x, F f, V* out) {
    int r = 0;
    for (; r + 8 <= p.others; r += 8) over_own<8>(p, r, x, f, out);
    if (r + 4 <= p.others) over_own<4>(p, r, x, f, out), r += 4;
    for (; r < p.others; ++r) over_own<1>(p, r, x, f, out);
  }

  // Computes K entries of `sum_others`.
  template <int K>
  static inline void over_others(const Shape::Player& p, int i, const V* x, const V* f, V* out) {
    V acc[K] = {};
    x += i * p.stride;
    for (int r = 0; r < p.others; ++r) {
      const V* at = x + p.base[r];
      const V factor = f[r];
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) acc[k] += at[k * p.stride] * factor;
    }
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) out[i + k] = acc[k];
  }
  // Computes out[i] = sum over plays r of the others of x(i, r) f[r].
  static void sum_others(const Shape::Player& p, const V* x, const V* f, V* out) {
    int i = 0;
    for (; i + 8 <= p.count; i += 8) over_others<8>(p, i, x, f, out);
    if (i + 4 <= p.count) over_others<4>(p, i, x, f, out), i += 4;
    for (; i < p.count; ++i) over_others<1>(p, i, x, f, out);
  }

  // Computes the gains A v, and the sum of v.
  void gains(const V* v, V* out, V& total) {
    const int n = int(shape->players.size());
    for (int p = 0; p < n; ++p) {
      const auto& player = shape->players[p];
      // Four sums at a time: the processor need not wait for one addition before the next.
      V kept[4] = {}, sums[4] = {};
      int e = 0;
      for (; e + 4 <= shape->size; e += 4)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          kept[k] += payoffs[p][e + k] * v[e + k];
          if (p == 0) sums[k] += v[e + k];
        }
      for (; e < shape->size; ++e) {
        kept[0] += payoffs[p][e] * v[e];
        if (p == 0) sums[0] += v[e];
      }
      const V all_kept = (kept[0] + kept[1]) + (kept[2] + kept[3]);
      if (p == 0) total = (sums[0] + sums[1]) + (sums[2] + sums[3]);
      sum_own(player, v, [](int) { return T(1); }, play);
      V* block = out + shape->first_dual[p];
      sum_others(player, payoffs[p], play, block);
      for (int i = 0; i < player.count; ++i) block[i] -= all_kept;
    }
  }

  // Computes A' a, and calls finish(joint index, value) once for each entry. `out` is scratch.
  template <class F>
  void logits(const V* a, V* out, F finish) {
    const int n = int(shape->players.size());
    for (int p = 0; p < n; ++p) {
      const auto& player = shape->players[p];
      const V* block = a + shape->first_dual[p];
      V mass{};
      for (int i = 0; i < player.count; ++i) mass += block[i];
      sum_own(player, payoffs[p], [=](int i) { return block[i]; }, value);
      for (int r = 0; r < player.others; ++r) {
        const V v = value[r];
        for (int i = 0, e = player.base[r]; i < player.count; ++i, e += player.stride) {
          V x = v - mass * payoffs[p][e];
          if (p > 0) x += out[e];
          if (p == n - 1) finish(e, x);
          else out[e] = x;
        }
      }
    }
  }

  // Computes A diag(w) A' - (A w)(A w)' / sum(w) in the lower triangle of `matrix`, A w in `means`
  // and sum(w) in `mass`. nes_jax/deviation.py has the formulas. Payoffs c are centred over own
  // strategies, and payoffs h also over the plays of the others.
  void covariance(const V* w, V* matrix, int ld, V* means, V& mass) {
    const int n = int(shape->players.size());
    mass = V{};
    for (int p = 0; p < n; ++p) {
      const auto& player = shape->players[p];
      sum_own(player, w, [](int) { return T(1); }, masses[p]);
      for (int r = 0; r < player.others; ++r) {
        const V *g = payoffs[p] + player.base[r], *weight = w + player.base[r];
        V sum{};
        for (int i = 0, at = 0; i < player.count; ++i, at += player.stride)
          sum += g[at] * weight[at];
        const V mean = sum * O::reciprocal(masses[p][r]);
        for (int i = 0, at = 0; i < player.count; ++i, at += player.stride)
          centred[p][i * player.others + r] = g[at] - mean;
      }
    }
    for (int r = 0; r < shape->players[0].others; ++r) mass += masses[0][r];
    const V inverse = O::reciprocal(mass);
    for (int p = 0; p < n; ++p)
      for (int q = 0; q < p; ++q) carry(p, q, w);
    for (int p = 0; p < n; ++p) {
      const auto& player = shape->players[p];
      V* own = means + shape->first_dual[p];
      V* diagonal = matrix + shape->first_dual[p] * (ld + 1);
      L::apply(player.count, player.others, {centred[p], player.others, 1}, masses[p], own);
      V square{};
      for (int i = 0, e = 0; i < player.count; ++i) {
        const V mean = own[i] * inverse;
        for (int r = 0; r < player.others; ++r, ++e) {
          const V c = centred[p][e];
          square += w[player.base[r] + i * player.stride] * c * c;
          centred[p][e] = c - mean;
          scaled[e] = centred[p][e] * masses[p][r];
        }
      }
      L::product(player.count, player.count, player.others, {scaled, player.others, 1},
                 {centred[p], player.others, 1}, diagonal, ld, true);
      for (int i = 0; i < player.count; ++i)
        for (int k = 0; k <= i; ++k) diagonal[i * ld + k] += square;
    }
    for (int p = 0; p < n; ++p)
      for (int q = 0; q < p; ++q) cross_block(p, q, w, matrix, ld);
  }

 private:
  // Computes the sum over joint strategies of w c_p c_q, the sums over the strategies of p of
  // w c_q, and the sums over the strategies of q of w c_p.
  void carry(int p, int q, const V* w) {
    const auto &own = shape->players[p], &other = shape->players[q];
    const auto& pair = shape->pairs[p][q];
    V sum{};
    for (size_t r = 0; r < pair.joint.size(); ++r) {
      V* to_q = carried[q][p] + pair.in_q[r];
      for (int i = 0; i < own.count; ++i) to_q[i * pair.step_q] = V{};
      for (int k = 0; k < other.count; ++k) {
        const V* c_p = centred[p] + pair.in_p[r] + k * pair.step_p;
        const V* c_q = centred[q] + pair.in_q[r] + k * other.others;
        const V* weight = w + pair.joint[r] + k * other.stride;
        V to_p{};
        for (int i = 0; i < own.count; ++i) {
          const V x = weight[i * own.stride], x_q = x * c_q[i * pair.step_q];
          to_p += x_q;
          sum += x_q * c_p[i * own.others];
          to_q[i * pair.step_q] += x * c_p[i * own.others];
        }
        carried[p][q][pair.in_p[r] + k * pair.step_p] = to_p;
      }
    }
    both[p][q] = sum;
  }

  // Computes block (p, q) of the matrix, q < p.
  void cross_block(int p, int q, const V* w, V* matrix, int ld) {
    const auto &own = shape->players[p], &other = shape->players[q];
    const auto& pair = shape->pairs[p][q];
    V* block = matrix + shape->first_dual[p] * ld + shape->first_dual[q];
    for (size_t r = 0; r < pair.joint.size(); ++r) {
      // inner[k, k'] = sum over strategies i' of p of h_q(k; i', r) w(i', k', r). The product with
      // h_p over k' is added to the block.
      L::product(other.count, other.count, own.count,
                 {centred[q] + pair.in_q[r], other.others, pair.step_q},
                 {w + pair.joint[r], other.stride, own.stride}, inner, other.count);
      L::product(own.count, other.count, other.count,
                 {centred[p] + pair.in_p[r], own.others, pair.step_p},
                 {inner, other.count, 1}, block, ld, false, r > 0);
    }
    V *cross_p = value, *cross_q = play;
    L::apply(own.count, own.others, {centred[p], own.others, 1}, carried[p][q], cross_p);
    L::apply(other.count, other.others, {centred[q], other.others, 1}, carried[q][p], cross_q);
    for (int i = 0; i < own.count; ++i)
      for (int k = 0; k < other.count; ++k)
        block[i * ld + k] += both[p][q] - cross_p[i] - cross_q[k];
  }
};

// Operator of a CE between two players. Row (p, i, k) is the gain of player p from playing k when i
// is recommended.
template <class T, int W>
struct Correlated {
  using O = Lanes<T, W>;
  using L = Linear<T, W>;
  using V = typename O::V;
  // In float64, differences of payoffs are formed before they are multiplied, so that differences
  // between payoffs that nearly tie keep their digits.
  static constexpr bool kExact = sizeof(T) == 8;

  const Shape* shape = nullptr;
  V* payoffs[2];
  // Scratch memory.
  V *table, *scaled, *part;

  void lay_out(Arena<V>& arena) {
    const int most = std::max(shape->players[0].count, shape->players[1].count);
    for (V** at : {&payoffs[0], &payoffs[1], &table, &scaled}) *at = arena.take(shape->size);
    part = arena.take(most * most);
  }

  // Layout of a player's payoffs: the payoff of own strategy i against strategy r is
  // x[i * own + r * other].
  struct Strides {
    int count, others, own, other;
  };
  Strides strides(int p) const {
    const auto& player = shape->players[p];
    return {player.count, player.others, player.stride, shape->players[1 - p].stride};
  }

  // Computes the gains A v, and the sum of v.
  void gains(const V* v, V* out, V& total) {
    total = V{};
    for (int e = 0; e < shape->size; ++e) total += v[e];
    for (int p = 0; p < 2; ++p) {
      const auto [count, others, own, other] = strides(p);
      const V* g = payoffs[p];
      V* block = out + shape->first_dual[p];
      if constexpr (kExact) {
        for (int i = 0; i < count; ++i) {
          V* row = block + i * count;
          for (int k = 0; k < count; ++k) row[k] = V{};
          for (int r = 0; r < others; ++r) {
            const V mine = g[i * own + r * other], weight = v[i * own + r * other];
            for (int k = 0; k < count; ++k) row[k] += weight * (g[k * own + r * other] - mine);
          }
        }
      } else {
        L::product(count, count, others, {v, own, other}, {g, own, other}, block, count);
        for (int i = 0; i < count; ++i) {
          const V kept = block[i * count + i];
          for (int k = 0; k < count; ++k) block[i * count + k] -= kept;
        }
      }
    }
  }

  // Computes A' a, and calls finish(joint index, value) once for each entry. `out` is scratch.
  template <class F>
  void logits(const V* a, V* out, F finish) {
    for (int p = 0; p < 2; ++p) {
      const auto [count, others, own, other] = strides(p);
      const V *g = payoffs[p], *block = a + shape->first_dual[p];
      if constexpr (!kExact)
        L::product(count, others, count, {block, count, 1}, {g, other, own}, table, others);
      for (int i = 0; i < count; ++i) {
        V mass{};
        if constexpr (!kExact)
          for (int k = 0; k < count; ++k) mass += block[i * count + k];
        for (int r = 0; r < others; ++r) {
          const int e = i * own + r * other;
          V x{};
          if constexpr (kExact) {
            for (int k = 0; k < count; ++k)
              x += block[i * count + k] * (g[k * own + r * other] - g[e]);
          } else {
            x = table[i * others + r] - mass * g[e];
          }
          if (p == 0) out[e] = x;
          else finish(e, x + out[e]);
        }
      }
    }
  }

  // Computes the sum over w of the squared gains of player p from deviating from i to k.
  V square(int p, const V* w, int i, int k) const {
    const auto [count, others, own, other] = strides(p);
    V sum{};
    for (int r = 0; r < others; ++r) {
      const int e = i * own + r * other;
      const V x = payoffs[p][e + (k - i) * own] - payoffs[p][e];
      sum += w[e] * x * x;
    }
    return sum;
  }

  // Computes the lower triangle of diag(root) A' diag(t) A diag(root).
  void joint_gram(const V* t, const V* root, V* matrix, int ld) {
    for (int e = 0; e < shape->size; ++e)
      for (int k = 0; k < e; ++k) matrix[e * ld + k] = V{};
    for (int p = 0; p < 2; ++p) {
      const auto [count, others, own, other] = strides(p);
      for (int i = 0; i < count; ++i) {
        const V* ratio = t + shape->first_dual[p] + i * count;
        for (int r = 0; r < others; ++r) {
          const int e = i * own + r * other;
          const V mine = payoffs[p][e], scale = root[e];
          for (int k = 0; k < count; ++k) {
            const V x = (payoffs[p][k * own + r * other] - mine) * scale;
            table[r * count + k] = x;
            scaled[r * count + k] = x * ratio[k];
          }
        }
        if (p == 0) {
          L::product(others, others, count, {scaled, count, 1}, {table, count, 1},
                     matrix + i * others * (ld + 1), ld, true);
          continue;
        }
        L::product(others, others, count, {scaled, count, 1}, {table, count, 1}, part, others,
                   true);
        for (int r = 0; r < others; ++r)
          for (int r2 = 0; r2 <= r; ++r2)
            matrix[(i * own + r * other) * ld + i * own + r2 * other] += part[r * others + r2];
      }
    }
  }

  // Computes `joint_gram` of the game in one lane, as a matrix of plain numbers.
  void lone_gram(int l, const V* t, const V* root, T* matrix, int ld) {
    auto in_lane = [l](const V* at, int i) { return reinterpret_cast<const T*>(at)[i * W + l]; };
    T *row = reinterpret_cast<T*>(table), *block = reinterpret_cast<T*>(part);
    for (int e = 0; e < shape->size; ++e) std::fill_n(matrix + size_t(e) * ld, e + 1, T(0));
    for (int p = 0; p < 2; ++p) {
      const auto [count, others, own, other] = strides(p);
      for (int i = 0; i < count; ++i) {
        std::fill_n(block, others * others, T(0));
        for (int k = 0; k < count; ++k) {
          const T ratio = in_lane(t, shape->first_dual[p] + i * count + k);
          for (int r = 0; r < others; ++r) {
            const int e = i * own + r * other;
            row[r] = (in_lane(payoffs[p], k * own + r * other) - in_lane(payoffs[p], e)) *
                     in_lane(root, e);
          }
          for (int r = 0; r < others; ++r) {
            const T x = row[r] * ratio;
            T* out = block + r * others;
            for (int r2 = 0; r2 <= r; ++r2) out[r2] += x * row[r2];
          }
        }
        for (int r = 0; r < others; ++r)
          for (int r2 = 0; r2 <= r; ++r2)
            matrix[size_t(i * own + r * other) * ld + i * own + r2 * other] +=
                block[r * others + r2];
      }
    }
  }
};

}  // namespace nes
