// Counter-based random numbers: the numbers at a position are the same for every thread and every call.

#pragma once

#include "threads.h"
#include "vectors.h"

namespace {

constexpr int kDraws = 128;  // 16-bit numbers drawn together

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC '11), sixteen counters at a time.
// Word w of counter i is written to [w][i] of `out`.
inline void draw(uint64_t key, uint64_t row, Long block, uint16_t* out) {
  const Ints lanes = lane_numbers();
  Ints odd = (lanes & 1) != 0;
  auto product = [&](Words x, uint32_t factor, Words* upper) {  // of 32 bits each; returns the lower half
    DoubleWords even = multiply_even(x, Words{} + factor), other = multiply_even((Words)((DoubleWords)x >> 32), Words{} + factor);
    *upper = odd ? (Words)other : (Words)(even >> 32);
    return odd ? (Words)(other << 32) : (Words)even;
  };
  for (int at = 0; at < 16; at += kWidth) {
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    Words c[4] = {(Words)lanes + static_cast<uint32_t>(16 * block + at), Words{} + static_cast<uint32_t>(row),
                  Words{} + static_cast<uint32_t>(row >> 32), Words{}};
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
      Words upper_one, upper_two;
      Words lower_one = product(c[0], 0xD2511F53u, &upper_one), lower_two = product(c[2], 0xCD9E8D57u, &upper_two);
      c[0] = upper_two ^ c[1] ^ k0;
      c[2] = upper_one ^ c[3] ^ k1;
      c[1] = lower_two;
      c[3] = lower_one;
    }
    for (int w = 0; w < 4; ++w) std::memcpy(out + 2 * (16 * w + at), &c[w], sizeof(Words));
  }
}

// A value is kept if its random number, of 65536, is below `kept`; kept values are scaled up so that the mean stays.
struct Dropout {
  uint64_t seed;
  Long kept;

  float growth() const { return 65536.0f / kept; }
  bool drops() const { return kept < 65536; }
  Chosen keeps(const uint16_t* draws) const { return drops() ? below(draws, static_cast<uint16_t>(kept)) : every(); }
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
      for (Long j = 0; j < width; j += kWidth) {
        Chosen there = first_of(width - j);
        Floats kept = choose(dropout.keeps(draws + j), load_chosen(from + j, there, 0.0f) * dropout.growth(), Floats{});
        store_chosen(to + j, kept, there);
      }
    }
  });
}

}  // namespace
