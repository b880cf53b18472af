// Functions that JAX's XLA calls from a compiled program, through its foreign function interface (headers of jaxlib).
//
// The work runs on XLA's own threads, so no second pool competes for the processors.

#include <algorithm>
#include <atomic>
#include <functional>
#include <initializer_list>
#include <memory>

#include "xla/ffi/api/ffi.h"

#include "attend.h"
#include "level.h"

namespace {

namespace ffi = xla::ffi;

// Run work(0) .. work(pieces - 1) on free threads of a pool. The calling thread takes pieces too, and waits only for pieces
// that have started: so there is no deadlock if all threads of the pool call this, or if a thread never starts.
class On {
 public:
  explicit On(ffi::ThreadPool& pool) : pool_(pool) {}

  template <class Work>
  void operator()(int threads, int pieces, const Work& work) const {
    struct State {
      std::atomic<int> next{0}, done{0};
    };
    auto state = std::make_shared<State>();
    auto take = [state, pieces, &work] {  // `work` belongs to the caller and is used only while the caller waits
      for (int piece; (piece = state->next.fetch_add(1)) < pieces;) {
        work(piece);
        state->done.fetch_add(1, std::memory_order_release);
      }
    };
    for (int helper = 1; helper < std::min(threads, pieces); ++helper) pool_.Schedule(std::function<void()>(take));
    take();
    while (state->done.load(std::memory_order_acquire) < pieces) relax();
  }

 private:
  ffi::ThreadPool& pool_;
};

constexpr int64_t any = -1;

// True if an array has these sizes; `any` matches every size.
bool has_shape(const ffi::AnyBuffer& x, std::initializer_list<int64_t> sizes) {
  auto shape = x.dimensions();
  if (shape.size() != sizes.size()) return false;
  return std::equal(sizes.begin(), sizes.end(), shape.begin(),
                    [](int64_t size, int64_t own) { return size == any || size == own; });
}

template <class... All>
bool alike(const ffi::AnyBuffer& x, const All&... others) {
  return ((others.element_type() == x.element_type()) && ...);
}

// True if a mask or a bias covers every score.
bool covers(const ffi::AnyBuffer& x, ffi::DataType kind, int64_t rows, int64_t heads, int64_t length, int64_t keys) {
  auto shape = x.dimensions();
  return x.element_type() == kind && (shape[0] == 1 || shape[0] == rows) && shape[1] == heads &&
         (shape[2] == 1 || shape[2] == length) && shape[3] == keys;
}

ffi::Error other_shapes() { return ffi::Error::InvalidArgument("conjoin: arrays that do not fit one another"); }

ffi::Error other_kind() { return ffi::Error::InvalidArgument("float32 or bfloat16 expected"); }

// y [rows, m] = x [rows, n] w [m, n]^T.
ffi::Error multiply_arrays(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer w, ffi::Result<ffi::AnyBuffer> y) {
  if (!has_shape(w, {any, any}) || !has_shape(x, {any, w.dimensions()[1]}) ||
      !has_shape(*y, {x.dimensions()[0], w.dimensions()[0]}) || !alike(x, w, *y))
    return other_shapes();
  Long m = w.dimensions()[0], n = w.dimensions()[1], rows = x.dimensions()[0];
  int threads = static_cast<int>(pool.num_threads());
  auto by = [&](auto product) {
    product(x.untyped_data(), rows, w.untyped_data(), y->untyped_data(), n, m, threads, On(pool));
    return ffi::Error::Success();
  };
  switch (w.element_type()) {
    case ffi::DataType::F32:
      return by([](auto&&... all) { multiply<Wide<float>, float>(all...); });
    case ffi::DataType::BF16:
      return by([](auto&&... all) { multiply<Brain, bf16>(all...); });
    default:
      return other_kind();
  }
}

// Rows and heads of keys and values are one axis, as in caches: with a reshape, XLA would copy a cache at every step. A
// mask or bias without four axes means none.
ffi::Error attend_arrays(ffi::ThreadPool pool, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v, ffi::AnyBuffer mask,
                         ffi::AnyBuffer bias, ffi::Result<ffi::AnyBuffer> out, int64_t kv_heads, float scale) {
  auto queries = q.dimensions(), keys = k.dimensions(), masks = mask.dimensions(), biases = bias.dimensions();
  bool masked = masks.size() == 4, biased = biases.size() == 4;
  if (!has_shape(q, {any, any, any, any}) || kv_heads <= 0 || !has_shape(k, {any, any, queries[3]}) || keys[0] % kv_heads ||
      !has_shape(v, {keys[0], keys[1], keys[2]}) || !has_shape(*out, {queries[0], queries[2], queries[1], queries[3]}) ||
      !alike(q, k, v, *out))
    return other_shapes();
  Long sources = keys[0] / kv_heads;
  if (!sources || queries[0] % sources || queries[1] % kv_heads ||
      (masked && !covers(mask, ffi::DataType::PRED, sources, 1, queries[2], keys[1])) ||
      (biased && !covers(bias, ffi::DataType::F32, 1, queries[1], queries[2], keys[1])))
    return other_shapes();
  AttendSizes sizes{sources, queries[0] / sources,  queries[1],             kv_heads, queries[2], keys[1],
                    keys[2], masked ? masks[0] : 0, masked ? masks[2] : 0, biased ? biases[2] : 0};
  int threads = static_cast<int>(pool.num_threads());
  auto by = [&](auto attention) {
    attention(sizes, scale, q.untyped_data(), k.untyped_data(), v.untyped_data(), mask.untyped_data(),
              bias.untyped_data(), out->untyped_data(), threads, On(pool));
    return ffi::Error::Success();
  };
  switch (q.element_type()) {
    case ffi::DataType::F32:
      return by([](auto&&... all) { attend<float>(all...); });
    case ffi::DataType::BF16:
      return by([](auto&&... all) { attend<bf16>(all...); });
    default:
      return other_kind();
  }
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(conjoin_attend, attend_arrays,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("kv_heads")
                                  .Attr<float>("scale"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(conjoin_multiply, multiply_arrays,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());
