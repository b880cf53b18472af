// Dot products of rows of x with the rows of a matrix that is stored as (out, in).
//
// Few rows are limited by memory: each row of the matrix is read once, for all rows of x. More rows are limited by
// arithmetic, and take groups of the matrix's rows that stay in the L2 cache until all of x has passed. Each output is the
// same sequence of operations for any number of rows.

#pragma once

#include <type_traits>
#include <utility>

#include "amx.h"

namespace {

constexpr Long kGroupBytes = 48 * 1024, kHeldBytes = 512 * 1024;

// Rows of x in a tile, and rows of w with them. With 32 registers 8 x 3 in float32, which reads w less often, and 6 x 4 where
// a number of x takes more registers; with 16 registers 4 x 3 in float32, else 5 x 2.
template <class D>
constexpr int tall() {
  constexpr bool is_plain = std::is_same_v<typename D::W, float>;
  if (kRegisters == 32) return is_plain ? 8 : 6;
  return columns_of<D>(4) == 3 ? 4 : 5;
}

constexpr int kFewRows = kRegisters == 32 ? 8 : 4;

// True if one row of x goes through the matrix one row at a time: contiguous memory, which the hardware predicts, and which
// registers of 16 numbers go through as fast as memory. Zen 4 reads it at 0.9 of its bandwidth. Sapphire Rapids, the only kind of
// processor that has AMX so far, reads float32 a quarter faster by several rows, of which the next ones are prefetched.
template <class D>
constexpr bool goes_in_order() {
#if defined(HAS_AMX)
  return kWidth == 16 && !std::is_same_v<typename D::W, float>;
#else
  return kWidth == 16;
#endif
}

// R rows against the rows [first, last) of w, at most kGroup. Of several rows of w at a time, the next ones up to `end` are
// prefetched: they are too short for the hardware to predict.
template <class D, int R>
__attribute__((noinline)) void few_sums(const Step<D>* x, const typename D::W* w, Long w_stride, Long n, Long first,
                                        Long last, Long end, typename D::Sum* out) {
  constexpr bool in_order = R == 1 && goes_in_order<D>();
  constexpr int C = in_order ? 1 : columns_of<D>(R);
  group_sums<D, R, C>(
      x, w + first * w_stride, w_stride, n, last - first,
      [&](Long o) {
        constexpr int distance = C == 3 ? 3 : 4;
        Ahead<typename D::W> ahead{};
        if (!in_order && first + o + distance + C <= end) {
          ahead.count = C;
          for (int j = 0; j < C; ++j) ahead.rows[j] = w + (first + o + distance + j) * w_stride;
        }
        return ahead;
      },
      out);
}

// Tile `part` of `parts` against a group of rows of w. Together they prefetch the next group, of `left` rows in all.
template <class D, int R>
__attribute__((noinline)) void many_sums(const Step<D>* x, const typename D::W* w, Long w_stride, Long n, Long count,
                                         Long group, Long left, Long part, Long parts, typename D::Sum* out) {
  constexpr int C = columns_of<D>(tall<D>());
  group_sums<D, R, C>(
      x, w, w_stride, n, count,
      [&](Long o) {
        Ahead<typename D::W> ahead{};
        for (Long j = C * part / parts; j < C * (part + 1) / parts; ++j)
          if (o + group + j < left) ahead.rows[ahead.count++] = w + (o + group + j) * w_stride;
        return ahead;
      },
      out);
}

template <class D, int... R>
auto few_functions(std::integer_sequence<int, R...>) {
  static constexpr decltype(&few_sums<D, 1>) functions[] = {few_sums<D, R + 1>...};
  return functions;
}

template <class D, int... R>
auto many_functions(std::integer_sequence<int, R...>) {
  static constexpr decltype(&many_sums<D, 1>) functions[] = {many_sums<D, R + 1>...};
  return functions;
}

template <class D, class Finish>
void few_dots(const typename D::X* x, Long rows, Long x_stride, const typename D::W* w, Long w_stride, Long n,
              Long first, Long last, const Finish& finish) {
  const auto* functions = few_functions<D>(std::make_integer_sequence<int, kFewRows>());
  Step<D>* xs = buffer<D>(rows * steps<D>(n));
  pack(x, x_stride, rows, n, xs);
  typename D::Sum out[kFewRows * kGroupStride];
  for (Long o = first; o < last; o += kGroup) {
    const Long stop = std::min(last, o + kGroup);
    functions[rows - 1](xs, w, w_stride, n, o, stop, last, out);
    finish_group(out, 0, rows, o, stop, finish);
  }
}

// Rows of x divided into tiles of nearly equal height.
struct Tiles {
  Long rows, count;
  Tiles(Long rows, int tall) : rows(rows), count((rows + tall - 1) / tall) {}
  Long begin(Long tile) const { return rows * tile / count; }
  Long height(Long tile) const { return begin(tile + 1) - begin(tile); }
};

template <class D, class Finish>
void many_dots(const typename D::X* x, Long rows, Long x_stride, const typename D::W* w, Long w_stride, Long n,
               Long first, Long last, const Finish& finish) {
  const auto* functions = many_functions<D>(std::make_integer_sequence<int, tall<D>()>());
  const Long length = steps<D>(n), bytes = length * static_cast<Long>(sizeof(Step<D>));
  const Long fitting = kGroupBytes / (n * static_cast<Long>(sizeof(typename D::W)) + 1);
  const Long group = std::max<Long>(12, std::min(kGroup, fitting / 12 * 12));  // whole tiles
  const Long most = std::max<Long>(6, kHeldBytes / (bytes + 1)), pieces = (rows + most - 1) / most;
  Step<D>* xs = buffer<D>((rows + pieces - 1) / pieces * length);
  typename D::Sum out[tall<D>() * kGroupStride];
  for (Long piece = 0; piece < pieces; ++piece) {
    const Long begin = rows * piece / pieces;
    const Tiles tiles(rows * (piece + 1) / pieces - begin, tall<D>());
    for (Long t = 0; t < tiles.count; ++t)
      pack(x + (begin + tiles.begin(t)) * x_stride, x_stride, tiles.height(t), n, xs + tiles.begin(t) * length);
    for (Long g = first; g < last; g += group) {
      const Long stop = std::min(last, g + group);
      for (Long t = 0; t < tiles.count; ++t) {
        functions[tiles.height(t) - 1](xs + tiles.begin(t) * length, w + g * w_stride, w_stride, n, stop - g, group,
                                       last - g, t, tiles.count, out);
        finish_group(out, begin + tiles.begin(t), tiles.height(t), g, stop, finish);
      }
    }
  }
}

// All rows against the outputs [first, last): `finish(row, output, sum)` takes each dot product.
template <class D, class Finish>
void dots(const typename D::X* x, Long rows, Long x_stride, const typename D::W* w, Long w_stride, Long n, Long first,
          Long last, const Finish& finish) {
#if defined(HAS_AMX)
  if constexpr (OnTiles<D>::value)
    if (!D::exact || rows > kFewOnVectors) return tile_dots<D>(x, rows, x_stride, w, w_stride, n, first, last, finish);
#endif
  if (rows <= kFewRows)
    few_dots<D>(x, rows, x_stride, w, w_stride, n, first, last, finish);
  else
    many_dots<D>(x, rows, x_stride, w, w_stride, n, first, last, finish);
}

// The outputs of one thread: a range of whole groups of eight.
inline void share(Long outputs, int thread, int threads, Long* first, Long* last) {
  Long groups = (outputs + 7) / 8;
  *first = std::min(outputs, groups * thread / threads * 8);
  *last = std::min(outputs, groups * (thread + 1) / threads * 8);
}

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

}  // namespace
