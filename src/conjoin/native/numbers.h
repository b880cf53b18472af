// float32 and bf16, and PyTorch's elementwise functions.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>

namespace {

using Long = int64_t;
using bf16 = uint16_t;

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

// Pause between two polls of a variable that another thread writes.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // as long as x86's pause; "yield" takes one cycle
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
template <class F>
inline F erf_ratio(F x) {
  x = x < -4.0f ? F{} - 4.0f : x;
  x = x > 4.0f ? F{} + 4.0f : x;
  F y = x * x;
  F p = F{} - 2.72614225801306e-10f;
  p = p * y + 2.77068142495902e-08f;
  p = p * y + -2.10102402082508e-06f;
  p = p * y + -5.69250639462346e-05f;
  p = p * y + -7.34990630326855e-04f;
  p = p * y + -2.95459980854025e-03f;
  p = p * y + -1.60960333262415e-02f;
  F q = F{} - 1.45660718464996e-05f;
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
