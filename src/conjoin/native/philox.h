// Counter-based random numbers: the numbers at a position are the same for every thread and every call.

#pragma once

#include "threads.h"
#include "vectors.h"

namespace {

constexpr int kDraws = 128;  // 16-bit numbers drawn together

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC '11), sixteen counters at a time.
// Word w of counter i is written to [w][i] of `out`.
inline void draw(uint64_t key, uint64_t row, Long block, uint16_t* out) {
  uint32_t first = static_cast<uint32_t>(16 * block), low = static_cast<uint32_t>(row);
  uint32_t high = static_cast<uint32_t>(row >> 32), k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
#if defined(HAS_AVX512)
  __m512i c[4] = {_mm512_add_epi32(_mm512_set1_epi32(first), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)),
                  _mm512_set1_epi32(low), _mm512_set1_epi32(high), _mm512_setzero_si512()};
  auto product = [](__m512i x, __m512i factor, __m512i* upper) {  // of 32 bits each; returns the lower half
    __m512i even = _mm512_mul_epu32(x, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), factor);
    *upper = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
    return _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
  };
  const __m512i factors[2] = {_mm512_set1_epi32(0xD2511F53), _mm512_set1_epi32(0xCD9E8D57)};
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    __m512i upper_one, upper_two;
    __m512i lower_one = product(c[0], factors[0], &upper_one), lower_two = product(c[2], factors[1], &upper_two);
    c[0] = _mm512_xor_si512(_mm512_xor_si512(upper_two, c[1]), _mm512_set1_epi32(k0));
    c[2] = _mm512_xor_si512(_mm512_xor_si512(upper_one, c[3]), _mm512_set1_epi32(k1));
    c[1] = lower_two;
    c[3] = lower_one;
  }
#else
  uint32_t c[4][16];
  for (int i = 0; i < 16; ++i) c[0][i] = first + i, c[1][i] = low, c[2][i] = high, c[3][i] = 0;
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    for (int i = 0; i < 16; ++i) {
      uint64_t one = 0xD2511F53ull * c[0][i], two = 0xCD9E8D57ull * c[2][i];
      c[0][i] = static_cast<uint32_t>(two >> 32) ^ c[1][i] ^ k0;
      c[1][i] = static_cast<uint32_t>(two);
      c[2][i] = static_cast<uint32_t>(one >> 32) ^ c[3][i] ^ k1;
      c[3][i] = static_cast<uint32_t>(one);
    }
  }
#endif
  std::memcpy(out, c, sizeof(c));
}

// A value is kept if its random number, of 65536, is below `kept`; kept values are scaled up so that the mean stays.
struct Dropout {
  uint64_t seed;
  Long kept;

  float growth() const { return 65536.0f / kept; }
  bool drops() const { return kept < 65536; }
  Chosen keeps(const uint16_t* draws) const { return drops() ? below(draws, static_cast<uint16_t>(kept)) : kAll; }
};

// y = x, scaled up, where it is kept; 0 elsewhere.
template <class T>
void drop(const T* x, T* y, Long count, Dropout dropout, int threads) {
  const Long blocks = (count + kDraws - 1) / kDraws;
  parallel_for(threads, threads, [&](Long part) {
    for (Long block = blocks * part / threads; block < blocks * (part + 1) / threads; ++block) {
      uint16_t draws[kDraws];
      draw(dropout.seed, block, 0, draws);
      const T* from = x + block * kDraws;
      T* to = y + block * kDraws;
      Long width = std::min<Long>(kDraws, count - block * kDraws);
      for (Long j = 0; j < width; j += 16) {
        Chosen there = first_of(width - j);
        Floats kept = choose(dropout.keeps(draws + j), load_chosen(from + j, there, 0.0f) * dropout.growth(), Floats{});
        store_chosen(to + j, kept, there);
      }
    }
  });
}

}  // namespace
