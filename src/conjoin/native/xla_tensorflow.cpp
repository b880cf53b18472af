// What TensorFlow's XLA calls from inside a compiled program: a custom call of the older kind (TensorFlow's headers), which
// gets no threads of XLA's.

#include <array>
#include <sstream>
#include <string>

#include "xla/service/custom_call_target_registry.h"

#include "attend.h"
#include "features.h"
#include "helpers.h"

namespace {

void on_helpers(int count, std::function<void()> work) { Helpers::all().offer(count, std::move(work)); }

// The whole numbers that a call is told.
template <size_t N>
std::array<Long, N> numbers(const char* told, size_t length) {
  std::istringstream text(std::string(told, length));
  std::array<Long, N> found{};
  for (Long& number : found) text >> number;
  return found;
}

// y [rows, m] = x [rows, n] w [m, n]^T; told: bytes of a number, threads, rows, n, m.
void multiply_arrays(void* y, const void** arrays, const char* told, size_t length, void*) {
  auto [bytes, threads, rows, n, m] = numbers<5>(told, length);
  if (bytes == 4)
    multiply<Wide<float>, float>(arrays[0], rows, arrays[1], y, n, m, static_cast<int>(threads), on_helpers);
  else
    multiply<Brain, bf16>(arrays[0], rows, arrays[1], y, n, m, static_cast<int>(threads), on_helpers);
}

// Arrays: q, k, v, mask, bias, a scale; told: bytes of a number, threads, the sizes in their order.
void attend_arrays(void* out, const void** arrays, const char* told, size_t length, void*) {
  auto all = numbers<12>(told, length);
  AttendSizes sizes{all[2], all[3], all[4], all[5], all[6], all[7], all[8], all[9], all[10], all[11]};
  float scale = *static_cast<const float*>(arrays[5]);
  int threads = static_cast<int>(all[1]);
  auto run = all[0] == 4 ? attend<float, decltype(on_helpers)> : attend<bf16, decltype(on_helpers)>;
  run(sizes, scale, arrays[0], arrays[1], arrays[2], arrays[3], arrays[4], out, threads, on_helpers);
}

}  // namespace

extern "C" void conjoin_register() {
  auto* registry = xla::CustomCallTargetRegistry::Global();
  registry->Register("conjoin_multiply", reinterpret_cast<void*>(&multiply_arrays), "Host");
  registry->Register("conjoin_attend", reinterpret_cast<void*>(&attend_arrays), "Host");
}
