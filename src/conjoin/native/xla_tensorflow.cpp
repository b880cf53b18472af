// Functions that TensorFlow's XLA calls from a compiled program: custom calls of the older kind (TensorFlow's headers),
// which get none of XLA's threads.

#include <array>
#include <sstream>
#include <string>

#include "xla/service/custom_call_target_registry.h"

#include "attend.h"
#include "level.h"
#include "threads.h"

namespace {

struct OnThreads {
  template <class Work>
  void operator()(int threads, int pieces, const Work& work) const {
    parallel_for(threads, pieces, work);
  }
};

// The integers in the opaque text of a call.
template <size_t N>
std::array<Long, N> numbers(const char* opaque, size_t length) {
  std::istringstream text(std::string(opaque, length));
  std::array<Long, N> values{};
  for (Long& value : values) text >> value;
  return values;
}

// y [rows, m] = x [rows, n] w [m, n]^T; opaque: bytes of a number, threads, rows, n, m.
void multiply_arrays(void* y, const void** arrays, const char* opaque, size_t length, void*) {
  auto [bytes, threads, rows, n, m] = numbers<5>(opaque, length);
  if (bytes == 4)
    multiply<Wide<float>, float>(arrays[0], rows, arrays[1], y, n, m, static_cast<int>(threads), OnThreads{});
  else
    multiply<Brain, bf16>(arrays[0], rows, arrays[1], y, n, m, static_cast<int>(threads), OnThreads{});
}

// Arrays: q, k, v, mask, bias, a scale; opaque: bytes of a number, threads, the fields of AttendSizes.
void attend_arrays(void* out, const void** arrays, const char* opaque, size_t length, void*) {
  auto all = numbers<12>(opaque, length);
  AttendSizes sizes{all[2], all[3], all[4], all[5], all[6], all[7], all[8], all[9], all[10], all[11]};
  float scale = *static_cast<const float*>(arrays[5]);
  int threads = static_cast<int>(all[1]);
  auto run = all[0] == 4 ? attend<float, OnThreads> : attend<bf16, OnThreads>;
  run(sizes, scale, arrays[0], arrays[1], arrays[2], arrays[3], arrays[4], out, threads, OnThreads{});
}

}  // namespace

extern "C" void conjoin_register() {
  auto* registry = xla::CustomCallTargetRegistry::Global();
  registry->Register("conjoin_multiply", reinterpret_cast<void*>(&multiply_arrays), "Host");
  registry->Register("conjoin_attend", reinterpret_cast<void*>(&attend_arrays), "Host");
}
