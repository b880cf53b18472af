// Vector operations on sixteen numbers at a time, for rows of scores.

#pragma once

#include "numbers.h"

namespace {

using Chosen = uint16_t;  // a bit for each of sixteen

constexpr Chosen kAll = 0xffff;

inline Chosen first_of(Long count) { return count >= 16 ? kAll : static_cast<Chosen>((1u << count) - 1); }

#if defined(HAS_AVX512)

inline Floats load_chosen(const float* p, Chosen which, float other) {
  return (Floats)_mm512_mask_loadu_ps(_mm512_set1_ps(other), which, p);
}
inline Floats load_chosen(const bf16* p, Chosen which, float other) {
  __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(which, p)), 16);
  return (Floats)_mm512_mask_blend_ps(which, _mm512_set1_ps(other), _mm512_castsi512_ps(wide));
}
inline void store_chosen(float* p, Floats x, Chosen which) { _mm512_mask_storeu_ps(p, which, (__m512)x); }
inline void store_chosen(bf16* p, Floats x, Chosen which) {
#if defined(HAS_BF16_DOT)
  __m256i narrow = (__m256i)_mm512_cvtneps_pbh((__m512)x);
#else
  bf16 some[16];
  for (int i = 0; i < 16; ++i) some[i] = ::narrow(x[i]);
  __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(some));
#endif
  _mm256_mask_storeu_epi16(p, which, narrow);
}
inline Floats choose(Chosen which, Floats yes, Floats no) {
  return (Floats)_mm512_mask_blend_ps(which, (__m512)no, (__m512)yes);
}
inline Chosen below(const uint16_t* draws, uint16_t limit) {
  return _mm256_cmplt_epu16_mask(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(draws)), _mm256_set1_epi16(limit));
}
inline Chosen nonzero(const uint8_t* p, Chosen which) {
  __m128i bytes = _mm_maskz_loadu_epi8(which, p);
  return _mm_test_epi8_mask(bytes, bytes);
}
inline Floats larger(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)a, (__m512)b); }
inline float largest(Floats x) { return _mm512_reduce_max_ps((__m512)x); }
inline float sum(Floats x) { return _mm512_reduce_add_ps((__m512)x); }
inline Floats size_of(Floats x) { return (Floats)_mm512_abs_ps((__m512)x); }
inline Floats rounded(Floats x) { return (Floats)_mm512_roundscale_ps((__m512)x, 8); }
inline Floats times_power_of_two(Floats x, Floats power) { return (Floats)_mm512_scalef_ps((__m512)x, (__m512)power); }

#else

template <class T>
Floats load_chosen(const T* p, Chosen which, float other) {
  Floats x;
  for (int i = 0; i < 16; ++i) x[i] = which >> i & 1 ? to_float(p[i]) : other;
  return x;
}
template <class T>
void store_chosen(T* p, Floats x, Chosen which) {
  for (int i = 0; i < 16; ++i)
    if (which >> i & 1) store(p + i, x[i]);
}
inline Floats choose(Chosen which, Floats yes, Floats no) {
  for (int i = 0; i < 16; ++i) no[i] = which >> i & 1 ? yes[i] : no[i];
  return no;
}
inline Chosen below(const uint16_t* draws, uint16_t limit) {
  Chosen result = 0;
  for (int i = 0; i < 16; ++i) result |= static_cast<Chosen>((draws[i] < limit) << i);
  return result;
}
inline Chosen nonzero(const uint8_t* p, Chosen which) {
  Chosen result = 0;
  for (int i = 0; i < 16; ++i) result |= static_cast<Chosen>((which >> i & 1 && p[i]) << i);
  return result;
}
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
inline float largest(Floats x) {
  float result = x[0];
  for (int i = 1; i < 16; ++i) result = std::max(result, x[i]);
  return result;
}
inline float sum(Floats x) {
  float result = 0;
  for (int i = 0; i < 16; ++i) result += x[i];
  return result;
}
inline Floats size_of(Floats x) { return x < 0 ? -x : x; }
inline Floats rounded(Floats x) {
  for (int i = 0; i < 16; ++i) x[i] = rintf(x[i]);
  return x;
}
inline Floats times_power_of_two(Floats x, Floats power) {
  for (int i = 0; i < 16; ++i) x[i] = ldexpf(x[i], static_cast<int>(power[i]));
  return x;
}

#endif

// e^x for x <= 0, as the scalar exp_negative; 0 at minus infinity, and NaN stays NaN.
inline Floats exp_negative(Floats x) {
  constexpr float least = -104.0f;  // e^-104 is 0 in float32
  Floats held = x < least ? Floats{} + least : x;
  Floats whole = rounded(held * kPerDoubling);
  return times_power_of_two(exp_reduced(held, whole), whole);
}

}  // namespace
