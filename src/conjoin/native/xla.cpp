// What XLA calls from inside a compiled program, by its foreign function interface (jax.ffi; headers of jaxlib).
//
// Work goes to XLA's own threads: no second pool competes with it for the processors.

#include <atomic>
#include <functional>

#include "xla/ffi/api/ffi.h"

#include "dots.h"
#include "features.h"

namespace {

namespace ffi = xla::ffi;

// work(0) .. work(pieces - 1), by whoever is free. The caller takes pieces itself and waits only for those that are being
// worked on: a pool whose threads are all callers of this goes on.
template <class Work>
void share_out(ffi::ThreadPool& pool, int pieces, const Work& work) {
  struct State {
    std::atomic<int> next{0}, done{0};
  };
  auto state = std::make_shared<State>();
  auto take = [state, pieces, &work] {  // `work` is the caller's, and looked at only while it waits
    for (int piece; (piece = state->next.fetch_add(1)) < pieces;) {
      work(piece);
      state->done.fetch_add(1, std::memory_order_release);
    }
  };
  int helpers = std::min<int>(static_cast<int>(pool.num_threads()), pieces) - 1;
  for (int i = 0; i < helpers; ++i) pool.Schedule(std::function<void()>(take));
  take();
  while (state->done.load(std::memory_order_acquire) < pieces) {
#if defined(HAS_AVX512)
    _mm_pause();
#endif
  }
}

constexpr Long kPieceBytes = 64 * 1024;  // of a matrix: less is not worth a thread's time
constexpr int kPiecesPerThread = 4;      // so that a thread which begins late takes fewer

template <class D, class T>
void product(ffi::ThreadPool& pool, const void* x, Long rows, const void* w, void* y, Long n, Long m) {
  Long worth = m * n * static_cast<Long>(sizeof(T)) / kPieceBytes;
  int pieces = static_cast<int>(std::max<Long>(1, std::min<Long>(worth, kPiecesPerThread * pool.num_threads())));
  auto* out = static_cast<T*>(y);
  share_out(pool, pieces, [=](int piece) {
    Long first, last;
    share(m, piece, pieces, &first, &last);
    if (first < last) {
      dots<D>(static_cast<const T*>(x), rows, n, static_cast<const T*>(w), n, n, first, last,
              [=](Long r, Long o, float sum) { store(out + r * m + o, sum); });
    }
  });
}

// y [rows, m] = x [rows, n] w [m, n]^T.
ffi::Error multiply(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer w, ffi::Result<ffi::AnyBuffer> y) {
  Long m = w.dimensions()[0], n = w.dimensions()[1], rows = x.dimensions()[0];
  const void *from = x.untyped_data(), *matrix = w.untyped_data();
  switch (w.element_type()) {
    case ffi::DataType::F32:
      product<Wide<float>, float>(pool, from, rows, matrix, y->untyped_data(), n, m);
      return ffi::Error::Success();
    case ffi::DataType::BF16:
      product<Brain, bf16>(pool, from, rows, matrix, y->untyped_data(), n, m);
      return ffi::Error::Success();
    default:
      return ffi::Error::InvalidArgument("float32 or bfloat16 expected");
  }
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(conjoin_multiply, multiply,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());
