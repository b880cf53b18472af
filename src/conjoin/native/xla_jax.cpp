// What JAX's XLA calls from inside a compiled program, by its foreign function interface (headers of jaxlib).
//
// Work goes to XLA's own threads: no second pool competes with it for the processors.

#include "xla/ffi/api/ffi.h"

#include "features.h"
#include "multiply.h"

namespace {

namespace ffi = xla::ffi;

// y [rows, m] = x [rows, n] w [m, n]^T.
ffi::Error multiply_arrays(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer w, ffi::Result<ffi::AnyBuffer> y) {
  Long m = w.dimensions()[0], n = w.dimensions()[1], rows = x.dimensions()[0];
  int threads = static_cast<int>(pool.num_threads());
  auto schedule = [&](int count, const std::function<void()>& work) {
    for (int i = 0; i < count; ++i) pool.Schedule(std::function<void()>(work));
  };
  auto by = [&](auto product) {
    product(x.untyped_data(), rows, w.untyped_data(), y->untyped_data(), n, m, threads, schedule);
    return ffi::Error::Success();
  };
  switch (w.element_type()) {
    case ffi::DataType::F32:
      return by([](auto&&... all) { multiply<Wide<float>, float>(all...); });
    case ffi::DataType::BF16:
      return by([](auto&&... all) { multiply<Brain, bf16>(all...); });
    default:
      return ffi::Error::InvalidArgument("float32 or bfloat16 expected");
  }
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(conjoin_multiply, multiply_arrays,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());
