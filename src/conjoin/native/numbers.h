// float32 and bf16, sixteen numbers at a time, and PyTorch's elementwise functions.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include <immintrin.h>
#define HAS_AVX512 1
#endif
#if defined(HAS_AVX512) && defined(__AVX512BF16__)
#define HAS_BF16_DOT 1
#endif
#if defined(HAS_AVX512) && defined(__AVX512VNNI__)
#define HAS_INT8_DOT 1
#endif

namespace {

using Long = int64_t;
using bf16 = uint16_t;
typedef float Floats __attribute__((vector_size(64)));  // sixteen numbers

inline float widen(bf16 x) {
  uint32_t bits = static_cast<uint32_t>(x) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

inline bf16 narrow(float x) {  // to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (std::isnan(x)) return static_cast<bf16>((bits >> 16) | 0x40);
  return static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return widen(x); }
inline float to_float(int8_t x) { return x; }

// The largest absolute value; NaN if a number is not finite.
template <class T>
float largest(const T* x, Long n) {
  float most = 0, poison = 0;
#pragma omp simd reduction(max : most) reduction(+ : poison)
  for (Long i = 0; i < n; ++i) {
    float v = to_float(x[i]);
    most = std::max(most, std::fabs(v));
    poison += v - v;
  }
  return most + poison;
}
inline void store(float* p, float x) { *p = x; }
inline void store(bf16* p, float x) { *p = narrow(x); }

inline Floats load16(const float* p) {
  Floats v;
  std::memcpy(&v, p, 64);
  return v;
}

inline Floats load16(const bf16* p) {
#if defined(HAS_AVX512)
  __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return (Floats)_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
#else
  float wide[16];
  for (int i = 0; i < 16; ++i) wide[i] = widen(p[i]);
  return load16(wide);
#endif
}

inline Floats load16(const int8_t* p) {
#if defined(HAS_AVX512)
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  float wide[16];
  for (int i = 0; i < 16; ++i) wide[i] = p[i];
  return load16(wide);
#endif
}

// Pause between two polls of a variable that another thread writes.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// e^x / 2^whole, where whole is x / ln 2 rounded (range reduction and a polynomial, after Cephes' expf).
template <class F>
inline F exp_reduced(F x, F whole) {
  F rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  F p = F{} + 1.9875691500e-4f;
  p = p * rest + 1.3981999507e-3f;
  p = p * rest + 8.3334519073e-3f;
  p = p * rest + 4.1665795894e-2f;
  p = p * rest + 1.6666665459e-1f;
  p = p * rest + 5.0000001201e-1f;
  return p * rest * rest + rest + 1.0f;
}

constexpr float kPerDoubling = 1.44269504088896341f;  // 1 / ln 2

// e^x for x <= 0, within 2 units in the last place.
inline float exp_negative(float x) {
  x = std::max(x, -87.0f);
  float whole = rintf(x * kPerDoubling);
  int32_t bits = (static_cast<int32_t>(whole) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return exp_reduced(x, whole) * power;
}

// erf(x) within 4 units in the last place, as a ratio of polynomials on [-4, 4] (the one of Eigen and XLA).
inline float erf_ratio(float x) {
  x = std::min(std::max(x, -4.0f), 4.0f);
  float y = x * x;
  float p = -2.72614225801306e-10f;
  p = p * y + 2.77068142495902e-08f;
  p = p * y + -2.10102402082508e-06f;
  p = p * y + -5.69250639462346e-05f;
  p = p * y + -7.34990630326855e-04f;
  p = p * y + -2.95459980854025e-03f;
  p = p * y + -1.60960333262415e-02f;
  float q = -1.45660718464996e-05f;
  q = q * y + -2.13374055278905e-04f;
  q = q * y + -1.68282697438203e-03f;
  q = q * y + -7.37332916720468e-03f;
  q = q * y + -1.42647390514189e-02f;
  return x * p / q;
}

inline float sigmoid(float x) {
  float small = exp_negative(-std::fabs(x));
  return (x >= 0 ? 1.0f : small) / (1.0f + small);
}
inline float tanh_exp(float x) {
  float small = exp_negative(-2.0f * std::fabs(x));
  float size = (1.0f - small) / (1.0f + small);
  return x < 0 ? -size : size;
}

}  // namespace
