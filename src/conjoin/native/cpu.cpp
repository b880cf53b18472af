// Which levels of `levels.py` the processor has, and the operating system saves the registers of. Compiled without flags.

#include "level.h"
#include "permission.h"

#if defined(__x86_64__)

#include <cpuid.h>

#include <cstdint>
#include <initializer_list>

namespace {

struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned part) {
  Registers r;
  if (!__get_cpuid_count(leaf, part, &r.a, &r.b, &r.c, &r.d)) return {};
  return r;
}

bool has(unsigned word, std::initializer_list<int> bits) {
  for (int bit : bits)
    if (!(word >> bit & 1)) return false;
  return true;
}

// Registers that the operating system saves (XCR0).
uint32_t saved() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

}  // namespace

// Bit i: level i. Bits of CPUID: Intel's Software Developer's Manual, volume 2, instruction CPUID.
extern "C" int conjoin_levels() {
  const Registers one = cpuid(1, 0), seven = cpuid(7, 0), more = cpuid(0x80000001, 0);
  const unsigned vnni = seven.a ? cpuid(7, 1).a : 0;
  // FMA, MOVBE, POPCNT, OSXSAVE, AVX, F16C; BMI1, AVX2, BMI2; LZCNT
  if (!has(one.c, {12, 22, 23, 27, 28, 29}) || !has(seven.b, {3, 5, 8}) || !has(more.c, {5})) return 0;
  if ((saved() & 0x6) != 0x6) return 0;
  int levels = 1;
  if (has(vnni, {4})) levels |= 2;  // AVX-VNNI
  // AVX-512 F, DQ, CD, BW, VL; mask and 512-bit registers
  if (!has(seven.b, {16, 17, 28, 30, 31}) || (saved() & 0xe6) != 0xe6) return levels;
  levels |= 4;
  if (has(seven.c, {11})) levels |= 8;                     // AVX512-VNNI
  if (has(seven.c, {11}) && has(vnni, {5})) levels |= 16;  // AVX512-BF16
  // AMX-BF16, AMX-TILE, AMX-INT8; shapes and contents of tiles
  if (levels & 16 && has(seven.d, {22, 24, 25}) && (saved() & 0x60000) == 0x60000 && may_use_tiles()) levels |= 32;
  return levels;
}

#elif defined(__aarch64__)

#if defined(__APPLE__)
#include <sys/sysctl.h>

namespace {

bool has(const char* name) {
  int value = 0;
  size_t size = sizeof(value);
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value;
}

bool has_dot() { return has("hw.optional.arm.FEAT_DotProd"); }
bool has_i8mm() { return has("hw.optional.arm.FEAT_I8MM"); }
bool has_bf16() { return has("hw.optional.arm.FEAT_BF16"); }

}  // namespace
#elif defined(__linux__)
#include <sys/auxv.h>

namespace {

// Linux, arch/arm64/include/uapi/asm/hwcap.h: HWCAP_ASIMDDP, HWCAP2_I8MM, HWCAP2_BF16.
bool has_dot() { return getauxval(AT_HWCAP) >> 20 & 1; }
bool has_i8mm() { return getauxval(AT_HWCAP2) >> 13 & 1; }
bool has_bf16() { return getauxval(AT_HWCAP2) >> 14 & 1; }

}  // namespace
#else
namespace {

bool has_dot() { return false; }
bool has_i8mm() { return false; }
bool has_bf16() { return false; }

}  // namespace
#endif

extern "C" int conjoin_levels() {
  int levels = 1;
  if (has_dot()) levels |= 2;
  if (has_dot() && has_i8mm()) levels |= 4;
  if (has_dot() && has_i8mm() && has_bf16()) levels |= 8;
  return levels;
}

#else

extern "C" int conjoin_levels() { return 0; }

#endif
