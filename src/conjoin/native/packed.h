// Tiles of dot products: R rows of x by C rows of weights, which are read in place. x is copied, converted and arranged
// so that the numbers of a tile are contiguous.

#pragma once

#include <vector>

#include "kinds.h"

namespace {

constexpr Long kGroup = 60, kGroupStride = 64;  // outputs whose sums are kept together: whole tiles of 1, 2, 3 or 4

template <class D>
struct Step {  // the numbers of one row of x in one step
  typename D::Held x;
};

template <class D>
inline Long steps(Long n) {
  return (n + D::step - 1) / D::step;
}

// A buffer of at least `count` steps; it belongs to the thread and is kept between calls.
template <class D>
inline Step<D>* buffer(Long count) {
  static thread_local std::vector<Step<D>> memory;
  if (static_cast<Long>(memory.size()) < count) memory.resize(count);
  return memory.data();
}

// Copy rows of n numbers to [steps][rows], the last step padded with zeros.
template <class D>
void pack(const typename D::X* x, Long stride, Long rows, Long n, Step<D>* to) {
  for (Long r = 0; r < rows; ++r) {
    const typename D::X* p = x + r * stride;
    Step<D>* q = to + r;
    Long k = 0;
    for (; k + D::step <= n; k += D::step, q += rows) q->x = D::load_x(p + k);
    if (k < n) q->x = D::load_x_some(p + k, static_cast<int>(n - k));
  }
}

// Products of one step. The factor with fewer vectors is held in registers, the other one passes.
template <class D, int R, int C, class Load>
inline void add_step(typename D::Accumulator (*a)[C], const Step<D>* x, const Load& load) {
  if constexpr (R < C) {
    typename D::Held held[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) held[r] = x[r].x;
#pragma GCC unroll 4
    for (int o = 0; o < C; ++o) {
      typename D::Vector w = load(o);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) a[r][o] = D::add(a[r][o], held[r], w);
    }
  } else {
    typename D::Vector w[C];
#pragma GCC unroll 4
    for (int o = 0; o < C; ++o) w[o] = load(o);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      typename D::Held held = x[r].x;
#pragma GCC unroll 4
      for (int o = 0; o < C; ++o) a[r][o] = D::add(a[r][o], held, w[o]);
    }
  }
}

// Rows of weights to prefetch while a tile is computed.
template <class W>
struct Ahead {
  const W* rows[4];
  int count;
};

// Dot products of a tile, not yet summed over the lanes.
template <class D, int R, int C>
inline void tile(const Step<D>* x, const typename D::W* const* w, Long n, const Ahead<typename D::W>& ahead,
                 typename D::Accumulator (*a)[C]) {
  constexpr int line = 64 / sizeof(typename D::W), parts = line / D::step;
  Long k = 0;
  for (; k + line <= n; k += line) {
    for (int j = 0; j < ahead.count; ++j) __builtin_prefetch(ahead.rows[j] + k, 0, 2);
#pragma GCC unroll 4
    for (int part = 0; part < parts; ++part, x += R)
      add_step<D, R, C>(a, x, [&](int o) { return D::load(w[o] + k + part * D::step); });
  }
  for (; k + D::step <= n; k += D::step, x += R) add_step<D, R, C>(a, x, [&](int o) { return D::load(w[o] + k); });
  if (k < n) add_step<D, R, C>(a, x, [&](int o) { return D::load_some(w[o] + k, static_cast<int>(n - k)); });
}

// Registers that a tile of R x C takes: accumulators, the factor that is held, one vector of the other, and scratch.
template <class D>
constexpr int registers(int rows, int columns) {
  constexpr int size = sizeof(typename D::Vector) / sizeof(Floats);
  return rows * columns + (std::min(rows, columns) + 1) * size + D::scratch;
}

// Rows of weights in a tile of R rows of x.
template <class D>
constexpr int columns_of(int rows) {
  int columns = 4;
  while (columns > 1 && registers<D>(rows, columns) > kRegisters) --columns;
  return columns;
}

// out[r * kGroupStride + o] = (row r of x) . (row o of w) for `count` rows of w. next(o): what to prefetch for C rows from
// o on.
template <class D, int R, int C, class Next>
inline void group_sums(const Step<D>* x, const typename D::W* w, Long w_stride, Long n, Long count, const Next& next,
                       typename D::Sum* out) {
  constexpr int width = C == 3 ? 3 : 4;  // sums that are reduced together
  for (Long o = 0; o < count; o += width) {
    typename D::Accumulator four[R][4] = {};
#pragma GCC unroll 4
    for (int c = 0; c < width; c += C) {
      const typename D::W* rows[C];
#pragma GCC unroll 4
      for (int j = 0; j < C; ++j) rows[j] = w + std::min(o + c + j, count - 1) * w_stride;
      typename D::Accumulator a[R][C] = {};
      tile<D, R, C>(x, rows, n, next(o + c), a);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < C; ++j) four[r][c + j] = a[r][j];
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sums(four[r], out + r * kGroupStride + o);
  }
}

template <class S, class Finish>
inline void finish_group(const S* sums, Long row, Long rows, Long first, Long last, const Finish& finish) {
  for (Long r = 0; r < rows; ++r)
    for (Long o = first; o < last; ++o) finish(row + r, o, sums[r * kGroupStride + o - first]);
}

}  // namespace
