// Rows of a cache (keys or values of one position and head): writing them, multiplying them with queries, summing them.
//
// An 8-bit row is `size` integers and, at the next multiple of 4, their scale as a float32. Queries are then rounded to
// 16 bits, so that products and sums are integers; this loses much less than the rounding of the keys.

#pragma once

#include "dots.h"
#include "threads.h"

namespace {

constexpr Long kKeys = 128;  // keys processed together; also the distance between the scores of two queries

// float32 or bf16.
template <class T, class D>
struct PlainRows {
  using Query = T;   // dtype in which queries are multiplied
  using Handed = T;  // dtype of the queries that a step passes
  static Long query_size(Long size) { return size; }

  static void write(T* row, const float* x, Long size) {
    for (Long e = 0; e < size; ++e) store(row + e, x[e]);
  }
  // Copy a query; returns the factor of its products.
  static float take(const T* q, Long size, Query* to) {
    std::memcpy(to, q, size * sizeof(T));
    return 1.0f;
  }
  static void scores(const Query* q, const float* scales, Long count, const T* k, Long stride, Long size, Long width,
                     float* out) {
    dots<D>(q, count, size, k, stride, size, 0, width,
            [&](Long r, Long o, float sum) { out[r * kKeys + o] = sum * scales[r]; });
  }
  static void scales(const T*, Long, Long, Long, float*) {}
  static void weigh(float*, const float*, Long) {}
};

struct ByteRows {
  using Query = int16_t;
  using Handed = float;
  static Long scale_at(Long size) { return (size + 3) / 4 * 4; }
  static Long query_size(Long size) { return size; }
  static float scale(const int8_t* row, Long size) {
    float scale;
    std::memcpy(&scale, row + scale_at(size), sizeof(scale));
    return scale;
  }

  static void write(int8_t* row, const float* x, Long size) {
    float scale = round(x, size, 127.0f, row);
    std::memcpy(row + scale_at(size), &scale, sizeof(scale));
  }
  template <class Q>
  static float take(const Q* q, Long size, Query* to) {
    return round(q, size, std::min(32767.0f, std::floor(16909320.0f / size)), to);  // their sum times 127 fits in 32 bits
  }
  static void scores(const Query* q, const float* scales, Long count, const int8_t* k, Long stride, Long size,
                     Long width, float* out) {
    float k_scales[kKeys];
    ByteRows::scales(k, stride, size, width, k_scales);
    dots<Widened<int16_t>>(q, count, size, k, stride, size, 0, width, [&](Long r, Long o, int32_t sum) {
      out[r * kKeys + o] = static_cast<float>(sum) * (scales[r] * k_scales[o]);
    });
  }
  static void scales(const int8_t* rows, Long stride, Long size, Long width, float* to) {
    for (Long j = 0; j < width; ++j) to[j] = scale(rows + j * stride, size);
  }
  // Multiply attention weights by the scales of the values, so that they apply to the integers.
  static void weigh(float* weights, const float* scales, Long width) {
    for (Long j = 0; j < width; ++j) weights[j] *= scales[j];
  }

 private:
  template <class Q, class To>
  static float round(const Q* x, Long size, float top, To* to) {
    float most = largest(x, size);
    if (std::isnan(most)) {
      std::fill(to, to + size, To{0});
      return most;
    }
    float inverse = most > 0 ? top / most : 0.0f;
    for (Long e = 0; e < size; ++e) to[e] = static_cast<To>(static_cast<int>(rintf(to_float(x[e]) * inverse)));
    return most / top;
  }
};

template <class T>
struct RowsOf {
  using type = PlainRows<T, Wide<T>>;
};
template <>
struct RowsOf<bf16> {
  using type = PlainRows<bf16, Brain>;
};
template <>
struct RowsOf<int8_t> {
  using type = ByteRows;
};
template <class T>
using Rows = typename RowsOf<T>::type;

// Add the weighted values of `width` keys to the sums of R queries, V registers of each.
template <int R, int V, class T>
inline void mix_lines(const float* s, const T* v, Long stride, Long width, Long size, float* mixed) {
  Floats a[R][V];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) a[r][i] = load(mixed + r * size + kWidth * i);
  for (Long j = 0; j < width; ++j, v += stride) {
    Floats x[V];
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) x[i] = load(v + kWidth * i);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) a[r][i] += s[r * kKeys + j] * x[i];
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) store(mixed + r * size + kWidth * i, a[r][i]);
}

template <int R, class T>
inline void mix(const float* s, const T* v, Long stride, Long width, Long size, float* mixed) {
  constexpr int V = R == 1 || kRegisters == 32 ? 4 : 2;
  Long e = 0;
  for (; e + V * kWidth <= size; e += V * kWidth) mix_lines<R, V>(s, v + e, stride, width, size, mixed + e);
  for (; e + kWidth <= size; e += kWidth) mix_lines<R, 1>(s, v + e, stride, width, size, mixed + e);
  for (; e < size; ++e)
    for (int r = 0; r < R; ++r)
      for (Long j = 0; j < width; ++j) mixed[r * size + e] += s[r * kKeys + j] * to_float(v[j * stride + e]);
}

// Rows as float32, one after another.
template <class T>
void widen_rows(const T* rows, Long stride, Long count, Long size, float* to) {
  for (Long j = 0; j < count; ++j, rows += stride, to += size) {
    Long e = 0;
    for (; e + kWidth <= size; e += kWidth) store(to + e, load(rows + e));
    for (; e < size; ++e) to[e] = to_float(rows[e]);
  }
}

// A tensor of a cache whose rows are moved: `bytes` bytes per head of each row.
struct Moving {
  char* data;
  Long row, head, heads, bytes;
};

// Row to[i] becomes what row from[i] was before any row changed.
inline void move_rows(const Moving* tensors, Long count, const Long* to, const Long* from, Long rows, int threads) {
  parallel_for(threads, count, [&](Long t) {
    const Moving& m = tensors[t];
    std::unique_ptr<char[]> held(new char[rows * m.bytes]);
    for (Long head = 0; head < m.heads; ++head) {
      char* at = m.data + head * m.head;
      for (Long i = 0; i < rows; ++i) std::memcpy(held.get() + i * m.bytes, at + from[i] * m.row, m.bytes);
      for (Long i = 0; i < rows; ++i) std::memcpy(at + to[i] * m.row, held.get() + i * m.bytes, m.bytes);
    }
  });
}

}  // namespace
