// Instruction sets of the compiler's target.

#pragma once

#include "numbers.h"

// Bit 0: AVX-512; bit 1: bf16 dot products; bit 2: int8 dot products.
extern "C" int conjoin_features() {
  int bits = 0;
#if defined(HAS_AVX512)
  bits |= 1;
#endif
#if defined(HAS_BF16_DOT)
  bits |= 2;
#endif
#if defined(HAS_INT8_DOT)
  bits |= 4;
#endif
  return bits;
}
