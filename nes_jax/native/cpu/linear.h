// Products and Cholesky factorisation of small matrices whose entries are vectors over games.
//
// The Newton systems of the interior-point method (method.h) are built and solved with these
// functions. Results are computed in tiles that stay in registers. A matrix has a distance between
// neighbours along each of its two indices, and may therefore be a slice of a tensor.
#pragma once
#include <algorithm>

#include "lanes.h"

namespace nes {

// Products.
template <class T, int W>
struct Linear {
  using O = Lanes<T, W>;
  using V = typename O::V;
  // Size of a tile. Eight or more independent sums use all multipliers of a core.
  static constexpr int kRows = 4, kColumns = kRegisters == 32 ? 4 : 2;

  // Matrix in memory: the address of its first entry, the distance between rows and the distance
  // between columns.
  struct Matrix {
    const V* at;
    int row, column;
  };

  // Computes acc[i][k] += sum over t of x[i, t] y[k, t].
  template <int TI, int TK>
  static inline void tile(Matrix x, Matrix y, int length, V (&acc)[TI][TK]) {
    for (int t = 0; t < length; ++t) {
      V left[TI], right[TK];
#pragma GCC unroll 8
      for (int i = 0; i < TI; ++i) left[i] = x.at[i * x.row + t * x.column];
#pragma GCC unroll 8
      for (int k = 0; k < TK; ++k) right[k] = y.at[k * y.row + t * y.column];
#pragma GCC unroll 8
      for (int i = 0; i < TI; ++i)
#pragma GCC unroll 8
        for (int k = 0; k < TK; ++k) acc[i][k] += left[i] * right[k];
    }
  }

  // Computes one tile of `product`.
  template <int TI, int TK>
  static inline void store_tile(Matrix x, Matrix y, int length, V* out, int ld, bool add) {
    V acc[TI][TK] = {};
    tile<TI, TK>(x, y, length, acc);
#pragma GCC unroll 8
    for (int i = 0; i < TI; ++i)
#pragma GCC unroll 8
      for (int k = 0; k < TK; ++k)
        out[i * ld + k] = add ? out[i * ld + k] + acc[i][k] : acc[i][k];
  }

  // Computes TI rows of `product`.
  template <int TI>
  static void strip(int columns, Matrix x, Matrix y, int length, V* out, int ld, bool add) {
    int k = 0;
    for (; k + kColumns <= columns; k += kColumns)
      store_tile<TI, kColumns>(x, {y.at + k * y.row, y.row, y.column}, length, out + k, ld, add);
    for (; k < columns; ++k)
      store_tile<TI, 1>(x, {y.at + k * y.row, y.row, y.column}, length, out + k, ld, add);
  }

  // Computes out[i, k] = sum over t of x[i, t] y[k, t], and with `add` adds it to the entries of
  // `out`. With `lower`, only entries with k <= i are needed, and others may be left out.
  static void product(int rows, int columns, int length, Matrix x, Matrix y, V* out, int ld,
                      bool lower = false, bool add = false) {
    int i = 0;
    for (; i + kRows <= rows; i += kRows) {
      const int end = lower ? std::min(i + kRows, columns) : columns;
      strip<kRows>(end, {x.at + i * x.row, x.row, x.column}, y, length, out + i * ld, ld, add);
    }
    for (; i < rows; ++i) {
      const int end = lower ? std::min(i + 1, columns) : columns;
      strip<1>(end, {x.at + i * x.row, x.row, x.column}, y, length, out + i * ld, ld, add);
    }
  }

  // Computes K entries of `apply`.
  template <int K>
  static inline void apply_rows(Matrix x, const V* f, int length, V* out) {
    V acc[K] = {};
    for (int t = 0; t < length; ++t) {
      const V* at = x.at + t * x.column;
      const V factor = f[t];
#pragma GCC unroll 8
      for (int i = 0; i < K; ++i) acc[i] += at[i * x.row] * factor;
    }
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) out[i] = acc[i];
  }
  // Computes out[i] = sum over t of x[i, t] f[t].
  static void apply(int rows, int length, Matrix x, const V* f, V* out) {
    int i = 0;
    auto from = [&] { return Matrix{x.at + i * x.row, x.row, x.column}; };
    for (; i + 8 <= rows; i += 8) apply_rows<8>(from(), f, length, out + i);
    if (i + 4 <= rows) apply_rows<4>(from(), f, length, out + i), i += 4;
    for (; i < rows; ++i) apply_rows<1>(from(), f, length, out + i);
  }
};

// Cholesky factorisation of a symmetric positive definite matrix, whose lower triangle is given.
template <class T, int W>
struct Cholesky {
  using O = Lanes<T, W>;
  using L = Linear<T, W>;
  using V = typename O::V;
  // Every pivot is raised by this fraction of the matrix's diagonal, and is at least as large.
  static constexpr T kFloor = T(0.5) * std::numeric_limits<T>::epsilon();
  // Number of columns that are factored together.
  static constexpr int kPanel = L::kColumns;

  // Matrix [side, ld]. After `factor`, the part below the diagonal is the factor's.
  V* a = nullptr;
  // Reciprocals of the factor's diagonal, [side].
  V* inverse = nullptr;
  // Number of rows, and the distance between rows.
  int side = 0, ld = 0;

  // Returns a distance between rows. It is no multiple of a large power of two, with which the rows
  // would share few cache sets.
  static int leading(int side) { return side + (side % 8 == 0 && side >= 32); }

  // Factors the matrix in place.
  void factor() {
    int k = 0;
    for (; k + kPanel <= side; k += kPanel) panel<kPanel>(k);
    for (; k < side; ++k) panel<1>(k);
  }

  // Solves the system with the right-hand side b [side], in place.
  void solve(V* b) const {
    int k = 0;
    for (; k + 4 <= side; k += 4) forward<4>(b, k);
    const int whole = k;
    for (; k < side; ++k) forward<1>(b, k);
    for (k = side - 1; k >= whole; --k) backward<1>(b, k);
    for (k = whole - 4; k >= 0; k -= 4) backward<4>(b, k);
  }

 private:
  // Factors the K columns from column k on.
  template <int K>
  void panel(int k) {
    diagonal<K>(k);
    int i = k + K;
    for (; i + L::kRows <= side; i += L::kRows) below<L::kRows, K>(i, k);
    for (; i < side; ++i) below<1, K>(i, k);
  }

  // Computes the tile at (i, k) minus the contribution of the columns before k.
  template <int TI, int TK>
  inline void reduced(int i, int k, V (&acc)[TI][TK]) const {
    L::template tile<TI, TK>({a + i * ld, ld, 1}, {a + k * ld, ld, 1}, k, acc);
#pragma GCC unroll 8
    for (int r = 0; r < TI; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < TK; ++c) acc[r][c] = a[(i + r) * ld + k + c] - acc[r][c];
  }

  // Factors the tile on the diagonal.
  template <int K>
  void diagonal(int k) {
    V acc[K][K] = {};
    reduced<K, K>(k, k, acc);
#pragma GCC unroll 8
    for (int c = 0; c < K; ++c) {
      const V least = a[(k + c) * ld + k + c] * kFloor;
      const V root = O::inverse_sqrt(O::max(least, acc[c][c] + least));
      inverse[k + c] = root;
#pragma GCC unroll 8
      for (int r = 0; r < K; ++r)
        if (r > c) acc[r][c] = acc[r][c] * root;
#pragma GCC unroll 8
      for (int c2 = 0; c2 < K; ++c2)
#pragma GCC unroll 8
        for (int r = 0; r < K; ++r)
          if (c2 > c && r >= c2) acc[r][c2] -= acc[r][c] * acc[c2][c];
    }
#pragma GCC unroll 8
    for (int r = 0; r < K; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < K; ++c)
        if (c < r) a[(k + r) * ld + k + c] = acc[r][c];
  }

  // Computes the factor's tile at (i, k), below the diagonal.
  template <int TI, int TK>
  void below(int i, int k) {
    V acc[TI][TK] = {};
    reduced<TI, TK>(i, k, acc);
    const V* corner = a + k * ld + k;
#pragma GCC unroll 8
    for (int c = 0; c < TK; ++c) {
      const V root = inverse[k + c];
#pragma GCC unroll 8
      for (int r = 0; r < TI; ++r) {
        V x = acc[r][c];
#pragma GCC unroll 8
        for (int c2 = 0; c2 < TK; ++c2)
          if (c2 < c) x -= acc[r][c2] * corner[c * ld + c2];
        acc[r][c] = x * root;
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < TI; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < TK; ++c) a[(i + r) * ld + k + c] = acc[r][c];
  }

  // Forward substitution for K entries.
  template <int K>
  inline void forward(V* b, int k) const {
    V acc[K];
    L::template apply_rows<K>({a + k * ld, ld, 1}, b, k, acc);
#pragma GCC unroll 8
    for (int c = 0; c < K; ++c) {
      V x = b[k + c] - acc[c];
      for (int c2 = 0; c2 < c; ++c2) x -= a[(k + c) * ld + k + c2] * b[k + c2];
      b[k + c] = x * inverse[k + c];
    }
  }

  // Backward substitution for K entries.
  template <int K>
  inline void backward(V* b, int k) const {
    V acc[K];
    L::template apply_rows<K>({a + (k + K) * ld + k, 1, ld}, b + k + K, side - k - K, acc);
#pragma GCC unroll 8
    for (int c = K - 1; c >= 0; --c) {
      V x = b[k + c] - acc[c];
      for (int c2 = c + 1; c2 < K; ++c2) x -= a[(k + c2) * ld + k + c] * b[k + c2];
      b[k + c] = x * inverse[k + c];
    }
  }
};

}  // namespace nes
