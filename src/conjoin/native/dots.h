// Dot products of rows of x with the rows of a matrix that is stored as (out, in).
//
// Up to eight rows are limited by memory: each row of the matrix is read once, as a whole. More rows are limited by
// arithmetic and take a group of the matrix's rows at a time (packed.h). The sums are equal, bit by bit.

#pragma once

#include "packed.h"

namespace {

// out[r][o] = (row r of x) . (row o of w), for a tile of R x 4. The weights `ahead` elements further on are prefetched
// meanwhile: rows are too short for the hardware prefetcher to predict the next ones.
template <class D, int R>
inline void tile(const typename D::X* x, Long x_stride, const typename D::W* const* w, Long n, Long ahead,
                 typename D::Sum (*out)[4]) {
  typename D::Accumulator a[R][4] = {};
  Long k = 0;
  for (; k + D::step <= n; k += D::step) {
    typename D::Vector weights[4];
#pragma GCC unroll 4
    for (int o = 0; o < 4; ++o) weights[o] = D::load(w[o] + k);
    if (ahead) {
#pragma GCC unroll 4
      for (int o = 0; o < 4; ++o) __builtin_prefetch(w[o] + k + ahead);
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      typename D::Vector v = D::load_x(x + r * x_stride + k);
#pragma GCC unroll 4
      for (int o = 0; o < 4; ++o) a[r][o] = D::add(a[r][o], v, weights[o]);
    }
  }
  if (k < n) {
    int rest = static_cast<int>(n - k);
    for (int o = 0; o < 4; ++o) {
      typename D::Vector weights = D::load_some(w[o] + k, rest);
      for (int r = 0; r < R; ++r)
        a[r][o] = D::add(a[r][o], D::load_x_some(x + r * x_stride + k, rest), weights);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) D::reduce(a[r], out[r]);
}

// The same sums, one row of weights after the other: the hardware prefetcher predicts contiguous reads, and fetches more
// than software prefetches can. Integers may be summed in any order.
template <class D, int R>
inline void tile_in_order(const typename D::X* x, Long x_stride, const typename D::W* const* w, Long n,
                          typename D::Sum (*out)[4]) {
  constexpr int parts = D::exact && R <= 2 ? 4 / R : 1;
  typename D::Accumulator total[R][4] = {};
  for (int o = 0; o < 4; ++o) {
    typename D::Accumulator a[R][parts] = {};
    Long k = 0;
    for (; k + parts * D::step <= n; k += parts * D::step) {
#pragma GCC unroll 4
      for (int part = 0; part < parts; ++part) {
        typename D::Vector weights = D::load(w[o] + k + part * D::step);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r)
          a[r][part] = D::add(a[r][part], D::load_x(x + r * x_stride + k + part * D::step), weights);
      }
    }
    for (; k < n; k += D::step) {
      int rest = static_cast<int>(std::min<Long>(D::step, n - k));
      for (int r = 0; r < R; ++r) {
        a[r][0] = rest == D::step ? D::add(a[r][0], D::load_x(x + r * x_stride + k), D::load(w[o] + k))
                                  : D::add(a[r][0], D::load_x_some(x + r * x_stride + k, rest), D::load_some(w[o] + k, rest));
      }
    }
    for (int r = 0; r < R; ++r) total[r][o] = D::sum(a[r], parts);
  }
  for (int r = 0; r < R; ++r) D::reduce(total[r], out[r]);
}

// True if this many rows of x stay in the L1 cache while the rows of weights pass.
template <class D>
inline bool fits(Long rows, Long n) {
  return rows * n * static_cast<Long>(sizeof(typename D::X)) <= 16 * 1024;
}

template <class D, int R, class Finish>
inline void strip(const typename D::X* x, Long x_stride, Long row, const typename D::W* w, Long w_stride, Long n,
                  Long first, Long last, Finish finish) {
  const typename D::W* rows[4];
  for (int o = 0; o < 4; ++o) rows[o] = w + std::min(first + o, last - 1) * w_stride;
  typename D::Sum out[R][4];
  bool in_order = false;
  if constexpr (R <= 4) {
    in_order = fits<D>(R, n);
    if (in_order) tile_in_order<D, R>(x + row * x_stride, x_stride, rows, n, out);
  }
  if (!in_order) tile<D, R>(x + row * x_stride, x_stride, rows, n, row ? 0 : 4 * w_stride, out);
  int valid = static_cast<int>(std::min<Long>(4, last - first));
  for (int r = 0; r < R; ++r)
    for (int o = 0; o < valid; ++o) finish(row + r, first + o, out[r][o]);
}

template <class D, class Finish>
void few_dots(const typename D::X* x, Long rows, Long x_stride, const typename D::W* w, Long w_stride, Long n,
              Long first, Long last, Finish finish) {
  for (Long o = first; o < last; o += 4) {
    Long row = 0;
    for (; row + 6 <= rows; row += 6) strip<D, 6>(x, x_stride, row, w, w_stride, n, o, last, finish);
    if (row + 4 < rows) strip<D, 4>(x, x_stride, row, w, w_stride, n, o, last, finish), row += 4;
    switch (rows - row) {
      case 4: strip<D, 4>(x, x_stride, row, w, w_stride, n, o, last, finish); break;
      case 3: strip<D, 3>(x, x_stride, row, w, w_stride, n, o, last, finish); break;
      case 2: strip<D, 2>(x, x_stride, row, w, w_stride, n, o, last, finish); break;
      case 1: strip<D, 1>(x, x_stride, row, w, w_stride, n, o, last, finish); break;
      default: break;
    }
  }
}

// All rows against the outputs [first, last): `finish(row, output, sum)` takes each dot product.
template <class D, class Finish>
void dots(const typename D::X* x, Long rows, Long x_stride, const typename D::W* w, Long w_stride, Long n, Long first,
          Long last, Finish finish) {
  if (rows > 4 && rows <= 8 && n % D::step == 0) {
    switch (rows) {
      case 5: return direct_dots<D, 5>(x, x_stride, w, w_stride, n, first, last, finish);
      case 6: return direct_dots<D, 6>(x, x_stride, w, w_stride, n, first, last, finish);
      case 7: return direct_dots<D, 7>(x, x_stride, w, w_stride, n, first, last, finish);
      default: return direct_dots<D, 8>(x, x_stride, w, w_stride, n, first, last, finish);
    }
  }
  if (rows > 4)
    many_dots<D>(x, rows, x_stride, w, w_stride, n, first, last, finish);
  else
    few_dots<D>(x, rows, x_stride, w, w_stride, n, first, last, finish);
}

// The outputs of one thread: a range of whole groups of eight.
inline void share(Long outputs, int thread, int threads, Long* first, Long* last) {
  Long groups = (outputs + 7) / 8;
  *first = std::min(outputs, groups * thread / threads * 8);
  *last = std::min(outputs, groups * (thread + 1) / threads * 8);
}

#if defined(HAS_INT8_DOT)
// Quantise one row to unsigned bytes around 128; returns its scale.
template <class T>
float quantise(const T* x, Long n, uint8_t* out) {
  float most = largest(x, n);
  if (std::isnan(most)) {
    std::fill(out, out + n, uint8_t{128});
    return most;
  }
  float scale = most / 127.0f, inverse = most > 0 ? 127.0f / most : 0.0f;
  for (Long i = 0; i < n; ++i)
    out[i] = static_cast<uint8_t>(128 + static_cast<int>(rintf(to_float(x[i]) * inverse)));
  return scale;
}

#endif
}  // namespace
