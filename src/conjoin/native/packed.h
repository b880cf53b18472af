// Dot products of many rows: tiles of six rows by four outputs. x is copied so that the cache lines of a tile are
// contiguous; the matrix is read in place, a group of its rows at a time, which stays in the L2 cache until all of x has
// passed.

#pragma once

#include <vector>

#include "kinds.h"

namespace {

constexpr Long group_bytes = 48 * 1024, kept_bytes = 512 * 1024;

struct alignas(64) Line {  // one load
  char bytes[64];
};

// A buffer of at least `count` lines; it belongs to the thread and is kept between calls.
inline Line* lines(std::vector<Line>& buffer, Long count) {
  if (static_cast<Long>(buffer.size()) < count) buffer.resize(count);
  return buffer.data();
}

template <class D>
inline Long steps(Long n) {
  return (n + D::step - 1) / D::step;
}

// Copy rows of n numbers to [steps][width] lines, the last step padded with zeros.
template <class D, class T>
inline void interleave(const T* from, Long stride, Long rows, Long n, Line* to, Long width) {
  for (Long r = 0; r < rows; ++r) {
    const T* p = from + r * stride;
    Line* q = to + r;
    Long k = 0;
    for (; k + D::step <= n; k += D::step, q += width) std::memcpy(q, p + k, sizeof(Line));
    if (k < n) {
      std::memset(q, 0, sizeof(Line));
      std::memcpy(q, p + k, (n - k) * sizeof(T));
    }
  }
}

struct Ahead {  // rows to prefetch while a tile is computed
  const char* rows[4];
  int count;
};

// Four rows of weights: the start of each, and the distance in bytes between its lines.
struct Four {
  const char* rows[4];
  Long step;
};

template <class D, int R>
inline void packed_tile(const Line* x, const Four& w, Long steps, const Ahead& ahead, typename D::Sum (*out)[4]) {
  typename D::Accumulator a[R][4] = {};
  for (Long s = 0; s < steps; ++s, x += R) {
    typename D::Vector weights[4];
#pragma GCC unroll 4
    for (int o = 0; o < 4; ++o) weights[o] = D::load(reinterpret_cast<const typename D::W*>(w.rows[o] + s * w.step));
    for (int o = 0; o < ahead.count; ++o) __builtin_prefetch(ahead.rows[o] + s * sizeof(Line), 0, 2);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      typename D::Vector v = D::load_x(reinterpret_cast<const typename D::X*>(x + r));
#pragma GCC unroll 4
      for (int o = 0; o < 4; ++o) a[r][o] = D::add(a[r][o], v, weights[o]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) D::reduce(a[r], out[r]);
}

template <class D, int R, class Finish>
inline void packed_strip(const Line* x, const Four& w, Long steps, const Ahead& ahead, Long row, Long output, int valid,
                         Finish finish) {
  typename D::Sum out[R][4];
  packed_tile<D, R>(x, w, steps, ahead, out);
  for (int r = 0; r < R; ++r)
    for (int o = 0; o < valid; ++o) finish(row + r, output + o, out[r][o]);
}

// Up to eight rows against C rows of weights, which are read in place: memory is the limit, and a copy of the weights
// would be read only once.
template <class D, int R, int C>
inline void direct_tile(const Line* x, const typename D::W* const* w, Long n, Long ahead, typename D::Sum (*out)[4]) {
  typename D::Accumulator a[R][C] = {};
  for (Long k = 0; k < n; k += D::step, x += R) {
    typename D::Vector weights[C];
#pragma GCC unroll 4
    for (int o = 0; o < C; ++o) weights[o] = D::load(w[o] + k);
#pragma GCC unroll 4
    for (int o = 0; o < C; ++o) __builtin_prefetch(w[o] + k + ahead, 0, 2);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      typename D::Vector v = D::load_x(reinterpret_cast<const typename D::X*>(x + r));
#pragma GCC unroll 4
      for (int o = 0; o < C; ++o) a[r][o] = D::add(a[r][o], v, weights[o]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    typename D::Accumulator four[4] = {};
    for (int o = 0; o < C; ++o) four[o] = a[r][o];
    D::reduce(four, out[r]);
  }
}

template <class D, int R, class Finish>
void direct_dots(const typename D::X* x, Long x_stride, const typename D::W* w, Long w_stride, Long n, Long first,
                 Long last, Finish finish) {
  constexpr int C = R <= 6 ? 4 : 3;  // R * C accumulators, C weights and a row of x fit in 32 registers
  static thread_local std::vector<Line> buffer;
  Line* xs = lines(buffer, R * steps<D>(n));
  interleave<D>(x, x_stride, R, n, xs, R);
  for (Long o = first; o < last; o += C) {
    const typename D::W* rows[C];
    for (int j = 0; j < C; ++j) rows[j] = w + std::min(o + j, last - 1) * w_stride;
    typename D::Sum out[R][4];
    direct_tile<D, R, C>(xs, rows, n, o + 2 * C <= last ? C * w_stride : 0, out);
    const int valid = static_cast<int>(std::min<Long>(C, last - o));
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < valid; ++j) finish(r, o + j, out[r][j]);
  }
}

// Rows of x divided into tiles of at most six rows, of nearly equal height.
struct Tiles {
  Long rows, count;
  explicit Tiles(Long rows) : rows(rows), count((rows + 5) / 6) {}
  Long begin(Long tile) const { return rows * tile / count; }
  Long height(Long tile) const { return begin(tile + 1) - begin(tile); }
};

template <class D, class Finish>
void many_dots(const typename D::X* x, Long rows, Long x_stride, const typename D::W* w, Long w_stride, Long n,
               Long first, Long last, Finish finish) {
  static thread_local std::vector<Line> x_buffer, w_buffer;
  const Long length = steps<D>(n), line = sizeof(Line);
  const Long group = 4 * std::max<Long>(1, group_bytes / (4 * line * length));
  const bool copied = n % D::step;  // the last step must be padded with zeros
  const Long most = std::max<Long>(6, kept_bytes / (line * length)), pieces = (rows + most - 1) / most;
  Line* xs = lines(x_buffer, (rows + pieces - 1) / pieces * length);
  Line* ws = lines(w_buffer, group * length);
  for (Long piece = 0; piece < pieces; ++piece) {
    const Long begin = rows * piece / pieces;
    const Tiles tiles(rows * (piece + 1) / pieces - begin);
    for (Long t = 0; t < tiles.count; ++t)
      interleave<D>(x + (begin + tiles.begin(t)) * x_stride, x_stride, tiles.height(t), n,
                    xs + tiles.begin(t) * length, tiles.height(t));
    for (Long g = first; g < last; g += group) {
      const Long stop = std::min(last, g + group);
      for (Long o = g; copied && o < stop; o += 4)
        interleave<D>(w + o * w_stride, w_stride, std::min<Long>(4, last - o), n, ws + (o - g) * length, 4);
      for (Long t = 0; t < tiles.count; ++t) {
        const Line* mine = xs + tiles.begin(t) * length;
        const Long row = begin + tiles.begin(t);
        for (Long o = g; o < stop; o += 4) {
          const int valid = static_cast<int>(std::min<Long>(4, last - o));
          Ahead ahead{};  // rows of the next group, divided among the tiles
          for (Long j = 4 * t / tiles.count; j < 4 * (t + 1) / tiles.count; ++j)
            if (o + group + j < last)
              ahead.rows[ahead.count++] = reinterpret_cast<const char*>(w + (o + group + j) * w_stride);
          Four theirs{{}, copied ? 4 * line : line};
          for (Long j = 0; j < 4; ++j)
            theirs.rows[j] = copied ? ws[(o - g) * length + j].bytes
                                    : reinterpret_cast<const char*>(w + std::min(o + j, last - 1) * w_stride);
          switch (tiles.height(t)) {
            case 6: packed_strip<D, 6>(mine, theirs, length, ahead, row, o, valid, finish); break;
            case 5: packed_strip<D, 5>(mine, theirs, length, ahead, row, o, valid, finish); break;
            case 4: packed_strip<D, 4>(mine, theirs, length, ahead, row, o, valid, finish); break;
            case 3: packed_strip<D, 3>(mine, theirs, length, ahead, row, o, valid, finish); break;
            case 2: packed_strip<D, 2>(mine, theirs, length, ahead, row, o, valid, finish); break;
            default: packed_strip<D, 1>(mine, theirs, length, ahead, row, o, valid, finish);
          }
        }
      }
    }
  }
}

}  // namespace
