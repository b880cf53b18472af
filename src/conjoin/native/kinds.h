// Dtypes: how the numbers of two registers are multiplied and accumulated.
//
// A kind has rows of `W` (weights) and of `X`. `Vector` holds `step` weights and `Held` as many numbers of x, which are
// converted once and then used for all weights. `add` accumulates their products, `reduce` sums up four accumulators.
//
// Instructions are inline assembler: GCC 12 keeps the accumulators of the bf16 and int8 intrinsics on the stack instead
// of in registers, and loads one factor of a float32 product again for each use, which halves the speed of a tile.

#pragma once

#include "vectors.h"

namespace {

#if defined(HAS_AVX512)

inline void sums(const Floats* a, float* out) {  // in a fixed order
  __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps((__m512)a[0], (__m512)a[1]), _mm512_unpackhi_ps((__m512)a[0], (__m512)a[1]));
  __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps((__m512)a[2], (__m512)a[3]), _mm512_unpackhi_ps((__m512)a[2], (__m512)a[3]));
  __m512 low = (__m512)_mm512_unpacklo_pd((__m512d)ab, (__m512d)cd);
  __m512 high = (__m512)_mm512_unpackhi_pd((__m512d)ab, (__m512d)cd);
  __m512 all = _mm512_add_ps(low, high);
  __m128 left = _mm_add_ps(_mm512_castps512_ps128(all), _mm512_extractf32x4_ps(all, 1));
  __m128 right = _mm_add_ps(_mm512_extractf32x4_ps(all, 2), _mm512_extractf32x4_ps(all, 3));
  _mm_storeu_ps(out, _mm_add_ps(left, right));
}
inline void sums(const Ints* a, int32_t* out) {
  __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32((__m512i)a[0], (__m512i)a[1]), _mm512_unpackhi_epi32((__m512i)a[0], (__m512i)a[1]));
  __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32((__m512i)a[2], (__m512i)a[3]), _mm512_unpackhi_epi32((__m512i)a[2], (__m512i)a[3]));
  __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  __m128i left = _mm_add_epi32(_mm512_castsi512_si128(all), _mm512_extracti32x4_epi32(all, 1));
  __m128i right = _mm_add_epi32(_mm512_extracti32x4_epi32(all, 2), _mm512_extracti32x4_epi32(all, 3));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_add_epi32(left, right));
}
inline Floats multiply_add(Floats a, Floats x, Floats w) {
  asm("vfmadd231ps %2, %1, %0" : "+v"(a) : "v"(x), "v"(w));
  return a;
}

#elif defined(HAS_AVX2)

inline void sums(const Floats* a, float* out) {
  __m256 all = _mm256_hadd_ps(_mm256_hadd_ps((__m256)a[0], (__m256)a[1]), _mm256_hadd_ps((__m256)a[2], (__m256)a[3]));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}
inline void sums(const Ints* a, int32_t* out) {
  __m256i ab = _mm256_hadd_epi32((__m256i)a[0], (__m256i)a[1]), cd = _mm256_hadd_epi32((__m256i)a[2], (__m256i)a[3]);
  __m256i all = _mm256_hadd_epi32(ab, cd);
  __m128i total = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), total);
}
inline Floats multiply_add(Floats a, Floats x, Floats w) {
  asm("vfmadd231ps %2, %1, %0" : "+x"(a) : "x"(x), "x"(w));
  return a;
}

#else

inline void sums(const Floats* a, float* out) {
  float32x4_t ab = vpaddq_f32((float32x4_t)a[0], (float32x4_t)a[1]), cd = vpaddq_f32((float32x4_t)a[2], (float32x4_t)a[3]);
  vst1q_f32(out, vpaddq_f32(ab, cd));
}
inline void sums(const Ints* a, int32_t* out) {
  int32x4_t ab = vpaddq_s32((int32x4_t)a[0], (int32x4_t)a[1]), cd = vpaddq_s32((int32x4_t)a[2], (int32x4_t)a[3]);
  vst1q_s32(out, vpaddq_s32(ab, cd));
}
inline Floats multiply_add(Floats a, Floats x, Floats w) {
  return (Floats)vfmaq_f32((float32x4_t)a, (float32x4_t)x, (float32x4_t)w);
}

#endif

// Kinds whose sums are rounded, in a fixed order, and kinds whose sums are exact, in any order.
struct RoundedSums {
  using Accumulator = Floats;
  using Sum = float;
  static constexpr bool exact = false;
  static constexpr int scratch = 0;  // registers that `add` needs
};
struct ExactSums {
  using Accumulator = Ints;
  using Sum = int32_t;
  static constexpr bool exact = true;
  static constexpr int scratch = 1;
};

template <class T>
struct Wide;

template <>
struct Wide<float> : RoundedSums {
  using W = float;
  using X = float;
  using Vector = Floats;
  using Held = Floats;
  static constexpr int step = kWidth;
  static Vector load(const W* p) { return ::load(p); }
  static Vector load_some(const W* p, int count) { return load_some_as<Floats>(p, count); }
  static Held load_x(const X* p) { return load(p); }
  static Held load_x_some(const X* p, int count) { return load_some(p, count); }
  static Floats add(Floats a, const Held& x, const Vector& w) { return multiply_add(a, x, w); }
};

#if (defined(HAS_AVX512) && defined(__AVX512BF16__)) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
struct Brain : RoundedSums {
  using W = bf16;
  using X = bf16;
  using Vector = Words;  // pairs
  using Held = Words;
  static constexpr int step = 2 * kWidth;
  static Vector load(const W* p) { return load_as<Words>(p); }
  static Vector load_some(const W* p, int count) { return load_some_as<Words>(p, count); }
  static Held load_x(const X* p) { return load(p); }
  static Held load_x_some(const X* p, int count) { return load_some(p, count); }
  static Floats add(Floats a, const Held& x, const Vector& w) {
#if defined(HAS_AVX512)
    asm("vdpbf16ps %2, %1, %0" : "+v"(a) : "v"(x), "v"(w));
#else
    a = (Floats)vbfdotq_f32((float32x4_t)a, (bfloat16x8_t)x, (bfloat16x8_t)w);
#endif
    return a;
  }
};
#else
// Without an instruction for products of bf16: the numbers at even and at odd places, widened.
struct Brain : RoundedSums {
  using W = bf16;
  using X = bf16;
  struct Vector {
    Floats even, odd;
  };
  using Held = Vector;
  static constexpr int step = 2 * kWidth;
  static Vector widen(Words pairs) { return {(Floats)(pairs << 16), (Floats)(pairs & 0xffff0000u)}; }
  static Vector load(const W* p) { return widen(load_as<Words>(p)); }
  static Vector load_some(const W* p, int count) { return widen(load_some_as<Words>(p, count)); }
  static Held load_x(const X* p) { return load(p); }
  static Held load_x_some(const X* p, int count) { return load_some(p, count); }
  static Floats add(Floats a, const Held& x, const Vector& w) {
    return multiply_add(multiply_add(a, x.even, w.even), x.odd, w.odd);
  }
};
#endif

// Integers of 16 bits (x) times integers of 8 bits, which are widened.
template <class T>
struct Widened : ExactSums {
  using W = int8_t;
  using X = T;
  typedef int16_t Vector __attribute__((vector_size(4 * kWidth)));
  using Held = Vector;
  static constexpr int step = 2 * kWidth;
  static constexpr int zero = std::is_signed<T>::value ? 0 : 128;
  template <class N>
  struct Raw {
    typedef N type __attribute__((vector_size(step * sizeof(N))));
  };
  template <class N>
  static Vector widen(N raw) {
    return __builtin_convertvector(raw, Vector);
  }
  static Vector load(const W* p) { return widen(load_as<typename Raw<W>::type>(p)); }
  static Vector load_some(const W* p, int count) { return widen(load_some_as<typename Raw<W>::type>(p, count)); }
  static Held load_x(const X* p) { return widen(load_as<typename Raw<X>::type>(p)); }
  static Held load_x_some(const X* p, int count) { return widen(load_some_as<typename Raw<X>::type>(p, count)); }
  static Ints add(Ints a, const Held& x, const Vector& w) {
#if defined(HAS_AVX512)
    a += (Ints)_mm512_madd_epi16((__m512i)x, (__m512i)w);
#elif defined(HAS_AVX2)
    a += (Ints)_mm256_madd_epi16((__m256i)x, (__m256i)w);
#else
    int32x4_t sum = vmlal_s16((int32x4_t)a, vget_low_s16((int16x8_t)x), vget_low_s16((int16x8_t)w));
    a = (Ints)vmlal_high_s16(sum, (int16x8_t)x, (int16x8_t)w);
#endif
    return a;
  }
};

// int8: x is unsigned, with 128 for 0, weights are signed. Sums contain `zero` times the sum of the weights.
#if defined(HAS_AVX2) && !defined(__AVXVNNI__) || defined(HAS_AVX512) && !defined(__AVX512VNNI__)
using Bytes = Widened<uint8_t>;
#else
#if !defined(VPDPBUSD)  // a test runs the AVX-VNNI level with the AVX-512 encoding of its only instruction
#define VPDPBUSD "%{vex%} vpdpbusd"
#endif
struct Bytes : ExactSums {
  using W = int8_t;
  using X = uint8_t;
  typedef int8_t Vector __attribute__((vector_size(4 * kWidth)));
  using Held = Vector;
  static constexpr int step = 4 * kWidth;
#if defined(HAS_NEON) && !defined(__ARM_FEATURE_MATMUL_INT8)
  static constexpr int zero = 0;  // products of signed numbers only
  static Held signed_x(Held x) { return x ^ static_cast<int8_t>(-128); }
#else
  static constexpr int zero = 128;
  static Held signed_x(Held x) { return x; }
#endif
  static Vector load(const W* p) { return load_as<Vector>(p); }
  static Vector load_some(const W* p, int count) { return load_some_as<Vector>(p, count); }
  static Held load_x(const X* p) { return signed_x(load_as<Held>(p)); }
  static Held load_x_some(const X* p, int count) { return signed_x(load_some_as<Held>(p, count)); }
  static Ints add(Ints a, const Held& x, const Vector& w) {
#if defined(HAS_AVX512)
    asm("vpdpbusd %2, %1, %0" : "+v"(a) : "v"(x), "v"(w));
#elif defined(HAS_AVX2)
    asm(VPDPBUSD " %2, %1, %0" : "+x"(a) : "x"(x), "x"(w));
#elif defined(__ARM_FEATURE_MATMUL_INT8)
    a = (Ints)vusdotq_s32((int32x4_t)a, (uint8x16_t)x, (int8x16_t)w);
#elif defined(__ARM_FEATURE_DOTPROD)
    a = (Ints)vdotq_s32((int32x4_t)a, (int8x16_t)x, (int8x16_t)w);
#else  // x is at least -127, so two products fit in 16 bits
    int16x8_t pair = vmull_s8(vget_low_s8((int8x16_t)x), vget_low_s8((int8x16_t)w));
    a = (Ints)vpadalq_s16((int32x4_t)a, vmlal_high_s8(pair, (int8x16_t)x, (int8x16_t)w));
#endif
    return a;
  }
};
#endif

}  // namespace
