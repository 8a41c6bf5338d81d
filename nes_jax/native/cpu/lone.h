// Cholesky factorisation of the Newton matrix of a single game.
//
// Vector registers hold parts of a row. This serves games that are large, and batches of few games.
// In all other cases the matrices of several games are factored side by side (linear.h).
#pragma once
#include "linear.h"

namespace nes {

// Cholesky factorisation of one symmetric positive definite matrix, by blocks of columns.
template <class T>
class LoneCholesky {
 public:
  static constexpr int kLane = kLanes<T>, kBlock = 2 * kLane, kRows = 4;
  using O = Lanes<T, kLane>;
  using V = typename O::V;
  // Every pivot is raised by this fraction of the matrix's diagonal, and is at least as large.
  static constexpr T kFloor = T(0.5) * std::numeric_limits<T>::epsilon();

  // Returns the distance between rows of a matrix with `side` rows.
  static int leading(int side) { return (side + kBlock - 1) / kBlock * kBlock; }

  // Rows of `matrix` are aligned to vectors. `inverse` [side] receives the reciprocals of the
  // factor's diagonal.
  LoneCholesky(T* matrix, T* inverse, int side)
      : a_(matrix), inverse_(inverse), side_(side), ld_(leading(side)) {}

  // Factors the matrix, whose lower triangle is given. `packed` is scratch of
  // kBlock * (side + kBlock) numbers.
  void factor(T* packed) {
    for (int i = 0; i < side_; ++i) inverse_[i] = a_[size_t(i) * ld_ + i];
    T* corner = packed + size_t(kBlock) * side_;
    for (int k = 0; k < side_; k += kBlock) {
      const int width = std::min(kBlock, side_ - k);
      for (int t = 0; t < k; ++t)
        for (int c = 0; c < kBlock; ++c)
          packed[t * kBlock + c] = c < width ? a_[size_t(k + c) * ld_ + t] : T(0);
      int i = k;
      for (; i + kRows <= side_; i += kRows) reduce<kRows>(i, k, packed);
      for (; i < side_; ++i) reduce<1>(i, k, packed);
      factor_corner(k, width, corner);
      for (i = k + width; i + kRows <= side_; i += kRows) eliminate<kRows>(i, k, width, corner);
      for (; i < side_; ++i) eliminate<1>(i, k, width, corner);
    }
  }

  // Solves the system with the right-hand side x [side], in place.
  void solve(T* x) const {
    for (int i = 0; i < side_; ++i) {
      const T* row = a_ + size_t(i) * ld_;
      V sums[2] = {};
      int t = 0;
      for (; t + 2 * kLane <= i; t += 2 * kLane) {
        sums[0] += load(row + t) * load(x + t);
        sums[1] += load(row + t + kLane) * load(x + t + kLane);
      }
      const V both = sums[0] + sums[1];
      T sum = 0;
      for (int l = 0; l < kLane; ++l) sum += both[l];
      for (; t < i; ++t) sum += row[t] * x[t];
      x[i] = (x[i] - sum) * inverse_[i];
    }
    for (int i = side_ - 1; i >= 0; --i) {
      const T* row = a_ + size_t(i) * ld_;
      const T value = x[i] *= inverse_[i];
      int t = 0;
      for (; t + kLane <= i; t += kLane) store(x + t, load(x + t) - load(row + t) * value);
      for (; t < i; ++t) x[t] -= row[t] * value;
    }
  }

 private:
  T *a_, *inverse_;
  int side_, ld_;

  static V load(const T* at) { return *reinterpret_cast<const V*>(at); }
  static void store(T* at, V x) { *reinterpret_cast<V*>(at) = x; }

  // Subtracts the contribution of the columns before k from rows i ... i + R - 1 of the block at k.
  template <int R>
  void reduce(int i, int k, const T* packed) {
    V acc[R][2] = {};
    const T* row = a_ + size_t(i) * ld_;
    for (int t = 0; t < k; ++t) {
      const V low = load(packed + t * kBlock), high = load(packed + t * kBlock + kLane);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const T x = row[size_t(r) * ld_ + t];
        acc[r][0] += x * low, acc[r][1] += x * high;
      }
    }
    for (int r = 0; r < R; ++r)
      for (int h = 0; h < 2; ++h) {
        T* at = a_ + size_t(i + r) * ld_ + k + h * kLane;
        store(at, load(at) - acc[r][h]);
      }
  }

  // Factors the block on the diagonal, and stores its columns below the diagonal as rows of
  // `corner`.
  void factor_corner(int k, int width, T* corner) {
    for (int c = 0; c < width; ++c)
      for (int r = 0; r < kBlock; ++r)
        corner[c * kBlock + r] = r >= c && r < width ? a_[size_t(k + r) * ld_ + k + c] : T(0);
    for (int c = 0; c < width; ++c) {
      T* column = corner + c * kBlock;
      const T least = inverse_[k + c] * kFloor;
      const T root = T(1) / std::sqrt(std::max(least, column[c] + least));
      inverse_[k + c] = root;
      for (int r = 0; r < kBlock; ++r) column[r] = r > c ? column[r] * root : T(0);
      for (int c2 = c + 1; c2 < width; ++c2) {
        const T factor = column[c2];
        for (int h = 0; h < kBlock; h += kLane)
          store(corner + c2 * kBlock + h,
                load(corner + c2 * kBlock + h) - factor * load(column + h));
      }
    }
    for (int c = 0; c < width; ++c)
      for (int r = c + 1; r < width; ++r) a_[size_t(k + r) * ld_ + k + c] = corner[c * kBlock + r];
  }

  // Divides rows i ... i + R - 1 of the block at k by the transposed factor that is in `corner`.
  template <int R>
  void eliminate(int i, int k, int width, const T* corner) {
    T* row = a_ + size_t(i) * ld_ + k;
    for (int c = 0; c < width; ++c) {
      const V low = load(corner + c * kBlock), high = load(corner + c * kBlock + kLane);
      const T root = inverse_[k + c];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        T* at = row + size_t(r) * ld_;
        const T x = at[c] * root;
        store(at, load(at) - x * low), store(at + kLane, load(at + kLane) - x * high);
        at[c] = x;
      }
    }
  }
};

}  // namespace nes
