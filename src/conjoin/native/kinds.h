// Dtypes: how 64 bytes of two vectors are multiplied and accumulated.
//
// Instructions are inline assembler: GCC 12 keeps the accumulators of the bf16 and int8 intrinsics on the stack instead
// of in registers, and loads one factor of a float32 product again for each use, which halves the speed of a tile.

#pragma once

#include "numbers.h"

namespace {

// Sum each of four accumulators, in a fixed order.
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

// float32; also bf16 if no instruction multiplies it directly.
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
  static Accumulator add(Accumulator a, Vector x, Vector w) {
#if defined(HAS_AVX512)
    asm("vfmadd231ps %2, %1, %0" : "+v"(a) : "v"(x), "v"(w));
    return a;
#else
    return a + x * w;
#endif
  }
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
  static Accumulator add(Accumulator a, Vector x, Vector w) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(a) : "v"(x), "v"(w));
    return a;
  }
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
  static Accumulator add(Accumulator a, Vector x, Vector w) {
    asm("vpdpbusd %2, %1, %0" : "+v"(a) : "v"(x), "v"(w));
    return a;
  }
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

}  // namespace
