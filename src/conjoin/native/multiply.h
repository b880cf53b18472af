// y = x W^T for few rows, distributed among the available threads.

#pragma once

#include <atomic>
#include <functional>

#include "dots.h"

namespace {

constexpr Long kPieceBytes = 64 * 1024;  // smaller pieces of a matrix do not pay for a thread
constexpr int kPiecesPerThread = 4;      // so that a thread that starts late takes fewer

// Run work(0) .. work(pieces - 1) on free threads. The calling thread takes pieces too, and waits only for pieces that
// have started: so there is no deadlock if all threads of a pool call this, or if a thread never starts.
template <class Schedule, class Work>
void share_out(int threads, int pieces, const Schedule& schedule, const Work& work) {
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
  int helpers = std::min(threads, pieces) - 1;
  if (helpers > 0) schedule(helpers, std::function<void()>(take));
  take();
  while (state->done.load(std::memory_order_acquire) < pieces) relax();
}

// x [rows, n], w [m, n], y [rows, m]. schedule(count, function) lets `count` other threads call a function.
template <class D, class T, class Schedule>
void multiply(const void* x, Long rows, const void* w, void* y, Long n, Long m, int threads, const Schedule& schedule) {
  Long worth = m * n * static_cast<Long>(sizeof(T)) / kPieceBytes;
  int pieces = static_cast<int>(std::max<Long>(1, std::min<Long>(worth, kPiecesPerThread * threads)));
  auto* out = static_cast<T*>(y);
  share_out(threads, pieces, schedule, [=](int piece) {
    Long first, last;
    share(m, piece, pieces, &first, &last);
    if (first < last) {
      dots<D>(static_cast<const T*>(x), rows, n, static_cast<const T*>(w), n, n, first, last,
              [=](Long r, Long o, float sum) { store(out + r * m + o, sum); });
    }
  });
}

}  // namespace
