// Vectors of float32, as wide as the registers of the target: the one layer between kernels and instruction sets.
//
// AVX-512 has 32 registers of 16 numbers, AVX2 16 of 8, NEON 32 of 4. What a compiler's generic vectors can say is said
// with them; intrinsics are for the rest. A `Chosen` selects lanes: a bit mask on AVX-512, lanes of 0 or -1 elsewhere.

#pragma once

#include "numbers.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define HAS_AVX512 1
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__FMA__)
#define HAS_AVX2 1
#include <immintrin.h>
#elif defined(__aarch64__)
#define HAS_NEON 1
#include <arm_neon.h>
#else
#error "the kernels need AVX2 with FMA, AVX-512 F, BW, DQ and VL, or NEON"
#endif

namespace {

#if defined(HAS_AVX512)
constexpr int kWidth = 16, kRegisters = 32;
#elif defined(HAS_AVX2)
constexpr int kWidth = 8, kRegisters = 16;
#else
constexpr int kWidth = 4, kRegisters = 32;
#endif

typedef float Floats __attribute__((vector_size(4 * kWidth)));
typedef int32_t Ints __attribute__((vector_size(4 * kWidth)));
typedef uint32_t Words __attribute__((vector_size(4 * kWidth)));
typedef uint64_t DoubleWords __attribute__((vector_size(4 * kWidth)));
typedef uint16_t Halves __attribute__((vector_size(2 * kWidth)));
typedef int8_t Octets __attribute__((vector_size(kWidth)));

template <class V, class T>
inline V load_as(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof(V));
  return v;
}

// The first `count` elements at p, then zeros.
template <class V, class T>
inline V load_some_as(const T* p, int count) {
#if defined(HAS_AVX512)
  if constexpr (sizeof(V) == 64)
    return (V)_mm512_maskz_loadu_epi8((1ull << count * sizeof(T)) - 1, p);
  else if constexpr (sizeof(V) == 32)
    return (V)_mm256_maskz_loadu_epi8(static_cast<__mmask32>((1ull << count * sizeof(T)) - 1), p);
#endif
  V v{};
  std::memcpy(&v, p, count * sizeof(T));
  return v;
}

inline Floats load(const float* p) { return load_as<Floats>(p); }
// GCC divides what it says with __builtin_convertvector into halves and quarters: a dozen instructions in place of one.
inline Floats load(const bf16* p) {
#if defined(HAS_AVX512)
  return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_as<__m256i>(p)), 16);
#elif defined(HAS_AVX2)
  return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_as<__m128i>(p)), 16);
#else
  return (Floats)(__builtin_convertvector(load_as<Halves>(p), Words) << 16);
#endif
}
inline Floats load(const int8_t* p) {
#if defined(HAS_AVX512)
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_as<__m128i>(p)));
#elif defined(HAS_AVX2)
  return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  return __builtin_convertvector(__builtin_convertvector(load_as<Octets>(p), Ints), Floats);
#endif
}

inline void store(float* p, Floats x) { std::memcpy(p, &x, sizeof(x)); }
inline void store(bf16* p, Floats x) {
#if defined(HAS_AVX512) && defined(__AVX512BF16__)
  __m256i half = (__m256i)_mm512_cvtneps_pbh((__m512)x);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half);
#else
  Words bits = (Words)x, rounded = bits + 0x7fff + ((bits >> 16) & 1), quiet = bits | 0x400000;
  Halves half = __builtin_convertvector((x == x ? rounded : quiet) >> 16, Halves);
  std::memcpy(p, &half, sizeof(half));
#endif
}

inline Ints lane_numbers() {
  Ints lanes;
  for (int i = 0; i < kWidth; ++i) lanes[i] = i;
  return lanes;
}

// The product of the lower half of each 64 bits.
inline DoubleWords multiply_even(Words a, Words b) {
#if defined(HAS_AVX512)
  return (DoubleWords)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(HAS_AVX2)
  return (DoubleWords)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#else
  return (DoubleWords)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b));
#endif
}

#if defined(HAS_AVX512)

using Chosen = __mmask16;

inline Chosen first_of(Long count) {  // the first `count` lanes, also for fewer than 0 or more than all
  return static_cast<Chosen>(count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1);
}
inline Chosen except(Chosen a, Chosen b) { return a & ~b; }
inline Floats choose(Chosen which, Floats yes, Floats no) {
  return (Floats)_mm512_mask_blend_ps(which, (__m512)no, (__m512)yes);
}
inline Floats load_chosen(const float* p, Chosen which, float other) {
  return (Floats)_mm512_mask_loadu_ps(_mm512_set1_ps(other), which, p);
}
inline Floats load_chosen(const bf16* p, Chosen which, float other) {
  __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(which, p)), 16);
  return choose(which, (Floats)wide, Floats{} + other);
}
inline void store_chosen(float* p, Floats x, Chosen which) { _mm512_mask_storeu_ps(p, which, (__m512)x); }
inline void store_chosen(bf16* p, Floats x, Chosen which) {
  bf16 half[16];
  store(half, x);
  _mm256_mask_storeu_epi16(p, which, load_as<__m256i>(half));
}
inline Chosen below(const uint16_t* draws, uint16_t limit) {
  return _mm256_cmplt_epu16_mask(load_as<__m256i>(draws), _mm256_set1_epi16(limit));
}
inline Chosen nonzero(const uint8_t* p, Chosen which) {
  __m128i bytes = _mm_maskz_loadu_epi8(which, p);
  return _mm_test_epi8_mask(bytes, bytes);
}
inline Floats larger(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)a, (__m512)b); }
inline float largest(Floats x) { return _mm512_reduce_max_ps((__m512)x); }
inline float sum(Floats x) { return _mm512_reduce_add_ps((__m512)x); }
inline Floats rounded(Floats x) { return (Floats)_mm512_roundscale_ps((__m512)x, 8); }
inline Floats times_power_of_two(Floats x, Floats power) { return (Floats)_mm512_scalef_ps((__m512)x, (__m512)power); }

#else

using Chosen = Ints;

#if defined(HAS_AVX2)
inline bool all(Chosen which) { return _mm256_movemask_ps((__m256)which) == 0xff; }
inline Floats rounded(Floats x) { return (Floats)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline float largest(Floats x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
inline float sum(Floats x) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
#else
inline bool all(Chosen which) { return vminvq_u32((uint32x4_t)which) != 0; }
inline Floats rounded(Floats x) { return (Floats)vrndnq_f32((float32x4_t)x); }
inline float largest(Floats x) { return vmaxvq_f32((float32x4_t)x); }
inline float sum(Floats x) { return vaddvq_f32((float32x4_t)x); }
#endif

inline Chosen first_of(Long count) {  // the first `count` lanes, also for fewer than 0 or more than all
  return lane_numbers() < static_cast<int32_t>(std::min<Long>(std::max<Long>(count, 0), kWidth));
}
inline Chosen except(Chosen a, Chosen b) { return a & ~b; }
inline Floats choose(Chosen which, Floats yes, Floats no) { return which ? yes : no; }
template <class T>
Floats load_chosen(const T* p, Chosen which, float other) {  // reads chosen numbers only
  if (all(which)) return load(p);
  Floats x;
  for (int i = 0; i < kWidth; ++i) x[i] = which[i] ? to_float(p[i]) : other;
  return x;
}
template <class T>
void store_chosen(T* p, Floats x, Chosen which) {
  if (all(which)) return store(p, x);
  for (int i = 0; i < kWidth; ++i)
    if (which[i]) store(p + i, x[i]);
}
inline Chosen below(const uint16_t* draws, uint16_t limit) {
  return __builtin_convertvector(load_as<Halves>(draws), Ints) < static_cast<int32_t>(limit);
}
inline Chosen nonzero(const uint8_t* p, Chosen which) {
  Ints read;
  for (int i = 0; i < kWidth; ++i) read[i] = which[i] ? p[i] : 0;
  return read != 0;
}
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats times_power_of_two(Floats x, Floats power) {  // -252 <= power <= 0: in two steps, for results below 2^-126
  Ints whole = __builtin_convertvector(power, Ints), half = whole >> 1;
  return x * (Floats)((half + 127) << 23) * (Floats)((whole - half + 127) << 23);
}

#endif

inline Chosen every() { return first_of(kWidth); }
inline Floats size_of(Floats x) { return (Floats)((Words)x & 0x7fffffffu); }

// e^x for x <= 0, as the scalar exp_negative; 0 at minus infinity, and NaN stays NaN.
inline Floats exp_negative(Floats x) {
  constexpr float least = -104.0f;  // e^-104 is 0 in float32
  Floats held = x < least ? Floats{} + least : x;
  Floats whole = rounded(held * kPerDoubling);
  return times_power_of_two(exp_reduced(held, whole), whole);
}

}  // namespace
