// What the compiler's target has.

#pragma once

#include "numbers.h"

// Bit 0: AVX-512; bit 1: bf16 dot products; bit 2: int8 dot products.
extern "C" int conjoin_features() {
  int found = 0;
#if defined(HAS_AVX512)
  found |= 1;
#endif
#if defined(HAS_BF16_DOT)
  found |= 2;
#endif
#if defined(HAS_INT8_DOT)
  found |= 4;
#endif
  return found;
}
