// Dot products of few rows of x with many rows of a matrix that is stored (out, in), row by row, nothing packed.

#pragma once

#include "numbers.h"

namespace {

// ---- kinds of numbers: how 64 bytes of two vectors are multiplied and added up ----

// Sums of four accumulators, in a fixed order.
#if defined(HAS_AVX512)
inline __m128 sum4(__m512 a, __m512 b, __m512 c, __m512 d) {
  __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  __m512 low = (__m512)_mm512_unpacklo_pd((__m512d)ab, (__m512d)cd);
  __m512 high = (__m512)_mm512_unpackhi_pd((__m512d)ab, (__m512d)cd);
  __m512 all = _mm512_add_ps(low, high);
  __m128 left = _mm_add_ps(_mm512_castps512_ps128(all), _mm512_extractf32x4_ps(all, 1));
  __m128 right = _mm_add_ps(_mm512_extractf32x4_ps(all, 2), _mm512_extractf32x4_ps(all, 3));
  return _mm_add_ps(left, right);
}
inline void sums(const Floats* a, float* out) { _mm_storeu_ps(out, sum4((__m512)a[0], (__m512)a[1], (__m512)a[2], (__m512)a[3])); }
#else
inline void sums(const Floats* a, float* out) {
  for (int j = 0; j < 4; ++j) {
    float total = 0;
    for (int i = 0; i < 16; ++i) total += a[j][i];
    out[j] = total;
  }
}
#endif

// float32 numbers; bf16 ones too where no instruction multiplies them directly.
template <class T>
struct Wide {
  using W = T;
  using X = T;
  using Vector = Floats;
  using Accumulator = Floats;
  using Sum = float;
  static constexpr int step = 16;
  static constexpr bool exact = false;
  static Accumulator sum(const Accumulator* a, int) { return a[0]; }
  static Vector load(const T* p) { return load16(p); }
  static Vector load_some(const T* p, int count) {
    T rest[16] = {};
    std::memcpy(rest, p, count * sizeof(T));
    return load16(rest);
  }
  static Vector load_x(const T* p) { return load(p); }
  static Vector load_x_some(const T* p, int count) { return load_some(p, count); }
  static Accumulator add(Accumulator a, Vector x, Vector w) { return a + x * w; }
  static void reduce(const Accumulator* a, Sum* out) { sums(a, out); }
};

#if defined(HAS_BF16_DOT)
struct Brain {
  using W = bf16;
  using X = bf16;
  using Vector = __m512bh;
  using Accumulator = __m512;
  using Sum = float;
  static constexpr int step = 32;
  static constexpr bool exact = false;
  static Accumulator sum(const Accumulator* a, int) { return a[0]; }
  static Vector load(const bf16* p) { return (__m512bh)_mm512_loadu_si512(p); }
  static Vector load_some(const bf16* p, int count) {
    return (__m512bh)_mm512_maskz_loadu_epi16(static_cast<__mmask32>((1ull << count) - 1), p);
  }
  static Vector load_x(const bf16* p) { return load(p); }
  static Vector load_x_some(const bf16* p, int count) { return load_some(p, count); }
  static Accumulator add(Accumulator a, Vector x, Vector w) { return _mm512_dpbf16_ps(a, x, w); }
  static void reduce(const Accumulator* a, Sum* out) { _mm_storeu_ps(out, sum4(a[0], a[1], a[2], a[3])); }
};
#else
using Brain = Wide<bf16>;
#endif

#if defined(HAS_INT8_DOT)
struct Bytes {  // unsigned x, signed w
  using W = int8_t;
  using X = uint8_t;
  using Vector = __m512i;
  using Accumulator = __m512i;
  using Sum = int32_t;
  static constexpr int step = 64;
  static constexpr bool exact = true;
  static Accumulator sum(const Accumulator* a, int count) {
    Accumulator total = a[0];
    for (int i = 1; i < count; ++i) total = _mm512_add_epi32(total, a[i]);
    return total;
  }
  static Vector load(const W* p) { return _mm512_loadu_si512(p); }
  static Vector load_some(const W* p, int count) { return _mm512_maskz_loadu_epi8((1ull << count) - 1, p); }
  static Vector load_x(const X* p) { return _mm512_loadu_si512(p); }
  static Vector load_x_some(const X* p, int count) { return _mm512_maskz_loadu_epi8((1ull << count) - 1, p); }
  static Accumulator add(Accumulator a, Vector x, Vector w) { return _mm512_dpbusd_epi32(a, x, w); }
  static void reduce(const Accumulator* a, Sum* out) {
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a[0], a[1]), _mm512_unpackhi_epi32(a[0], a[1]));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(a[2], a[3]), _mm512_unpackhi_epi32(a[2], a[3]));
    __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m128i left = _mm_add_epi32(_mm512_castsi512_si128(all), _mm512_extracti32x4_epi32(all, 1));
    __m128i right = _mm_add_epi32(_mm512_extracti32x4_epi32(all, 2), _mm512_extracti32x4_epi32(all, 3));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_add_epi32(left, right));
  }
};
#endif

// out[r][o] = x row r . w row o, for a tile of R x O of them; O is a multiple of 4. The weights `ahead` elements further
// on are fetched meanwhile: rows are too short for the processor to foresee where the next ones begin.
template <class D, int R, int O>
inline void tile(const typename D::X* x, Long x_stride, const typename D::W* const* w, Long n, Long ahead,
                 typename D::Sum (*out)[O]) {
  typename D::Accumulator a[R][O] = {};
  Long k = 0;
  for (; k + D::step <= n; k += D::step) {
    typename D::Vector weights[O];
#pragma GCC unroll 8
    for (int o = 0; o < O; ++o) weights[o] = D::load(w[o] + k);
    if (ahead) {
#pragma GCC unroll 8
      for (int o = 0; o < O; ++o) __builtin_prefetch(w[o] + k + ahead);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      typename D::Vector v = D::load_x(x + r * x_stride + k);
#pragma GCC unroll 8
      for (int o = 0; o < O; ++o) a[r][o] = D::add(a[r][o], v, weights[o]);
    }
  }
  if (k < n) {
    int rest = static_cast<int>(n - k);
    for (int o = 0; o < O; ++o) {
      typename D::Vector weights = D::load_some(w[o] + k, rest);
      for (int r = 0; r < R; ++r)
        a[r][o] = D::add(a[r][o], D::load_x_some(x + r * x_stride + k, rest), weights);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int o = 0; o < O; o += 4) D::reduce(&a[r][o], &out[r][o]);
  }
}

// The same, sum by sum, with one row of weights after the other: the processor foresees what is read in one piece, and
// fetches more of it at a time than it can be told to. Whole numbers may be added up in any order.
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

// Whether so many rows of x stay in the first cache while one row of weights after the other passes.
template <class D>
inline bool fits(Long rows, Long n) {
  return rows * n * static_cast<Long>(sizeof(typename D::X)) <= 16 * 1024;
}

// All rows against the outputs [first, last): `finish(row, output, sum)` takes each dot product.
template <class D, int R, int O, class Finish>
inline void strip(const typename D::X* x, Long x_stride, Long row, const typename D::W* w, Long w_stride, Long n,
                  Long first, Long last, Finish finish) {
  const typename D::W* rows[O];
  for (int o = 0; o < O; ++o) rows[o] = w + std::min(first + o, last - 1) * w_stride;
  typename D::Sum out[R][O];
  bool in_order = false;
  if constexpr (O == 4 && R <= 4) {
    in_order = fits<D>(R, n);
    if (in_order) tile_in_order<D, R>(x + row * x_stride, x_stride, rows, n, out);
  }
  if (!in_order) tile<D, R, O>(x + row * x_stride, x_stride, rows, n, row ? 0 : O * w_stride, out);
  int valid = static_cast<int>(std::min<Long>(O, last - first));
  for (int r = 0; r < R; ++r)
    for (int o = 0; o < valid; ++o) finish(row + r, first + o, out[r][o]);
}

template <class D, class Finish>
void dots(const typename D::X* x, Long rows, Long x_stride, const typename D::W* w, Long w_stride, Long n, Long first,
          Long last, Finish finish) {
  // So many rows of x stay in a core's cache while the weights pass by.
  Long chunk = std::max<Long>(6, (192 * 1024 / static_cast<Long>(sizeof(typename D::X)) / std::max<Long>(n, 1)) / 6 * 6);
  for (Long begin = 0; begin < rows; begin += chunk) {
    Long end = std::min(rows, begin + chunk);
    for (Long o = first; o < last; o += 4) {
      Long row = begin;
      if (end - begin > 8 || !fits<D>(4, n))
        for (; row + 6 <= end; row += 6) strip<D, 6, 4>(x, x_stride, row, w, w_stride, n, o, last, finish);
      for (; row + 4 < end; row += 4) strip<D, 4, 4>(x, x_stride, row, w, w_stride, n, o, last, finish);
      switch (end - row) {
        case 4: strip<D, 4, 4>(x, x_stride, row, w, w_stride, n, o, last, finish); break;
        case 3: strip<D, 3, 4>(x, x_stride, row, w, w_stride, n, o, last, finish); break;
        case 2: strip<D, 2, 4>(x, x_stride, row, w, w_stride, n, o, last, finish); break;
        case 1: strip<D, 1, 4>(x, x_stride, row, w, w_stride, n, o, last, finish); break;
        default: break;
      }
    }
  }
}

// Outputs of one thread: a run of whole groups of eight.
inline void share(Long outputs, int thread, int threads, Long* first, Long* last) {
  Long groups = (outputs + 7) / 8;
  *first = std::min(outputs, groups * thread / threads * 8);
  *last = std::min(outputs, groups * (thread + 1) / threads * 8);
}

#if defined(HAS_INT8_DOT)
// One row as unsigned bytes around 128; returns the size of a unit.
template <class T>
float quantise(const T* x, Long n, uint8_t* out) {
  float most = 0;
#pragma omp simd reduction(max : most)
  for (Long i = 0; i < n; ++i) most = std::max(most, std::fabs(to_float(x[i])));
  float scale = most / 127.0f, inverse = most > 0 ? 127.0f / most : 0.0f;
  for (Long i = 0; i < n; ++i)
    out[i] = static_cast<uint8_t>(128 + static_cast<int>(rintf(to_float(x[i]) * inverse)));
  return scale;
}

#endif
}  // namespace
