// What TensorFlow's XLA calls from inside a compiled program: a custom call of the older kind (TensorFlow's headers), which
// gets no threads of XLA's.

#include <cstdio>
#include <string>

#include "xla/service/custom_call_target_registry.h"

#include "features.h"
#include "helpers.h"
#include "multiply.h"

namespace {

// y [rows, m] = x [rows, n] w [m, n]^T; what is told: bytes of a number, rows, n, m, threads.
void multiply_arrays(void* y, const void** arrays, const char* told, size_t length, void*) {
  std::string text(told, length);
  long long bytes, rows, n, m;
  int threads;
  if (std::sscanf(text.c_str(), "%lld %lld %lld %lld %d", &bytes, &rows, &n, &m, &threads) != 5) return;
  auto schedule = [](int count, std::function<void()> work) { Helpers::all().offer(count, std::move(work)); };
  if (bytes == 4)
    multiply<Wide<float>, float>(arrays[0], rows, arrays[1], y, n, m, threads, schedule);
  else
    multiply<Brain, bf16>(arrays[0], rows, arrays[1], y, n, m, threads, schedule);
}

}  // namespace

extern "C" void conjoin_register() {
  xla::CustomCallTargetRegistry::Global()->Register("conjoin_multiply", reinterpret_cast<void*>(&multiply_arrays), "Host");
}
