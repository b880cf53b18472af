// y = x W^T of few rows, shared out to whatever threads there are.

#pragma once

#include <atomic>
#include <functional>

#include "dots.h"

namespace {

constexpr Long kPieceBytes = 64 * 1024;  // of a matrix: less is not worth a thread's time
constexpr int kPiecesPerThread = 4;      // so that a thread which begins late takes fewer

// work(0) .. work(pieces - 1), by whoever is free. The caller takes pieces itself and waits only for those that are being
// worked on: a pool whose threads are all callers of this goes on, and one that never begins is not missed.
template <class Schedule, class Work>
void share_out(int threads, int pieces, const Schedule& schedule, const Work& work) {
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
  int helpers = std::min(threads, pieces) - 1;
  if (helpers > 0) schedule(helpers, std::function<void()>(take));
  take();
  while (state->done.load(std::memory_order_acquire) < pieces) relax();
}

// x [rows, n], w [m, n], y [rows, m]. schedule(count, function) lets so many other threads call a function.
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
