// y = x W^T for few rows, distributed among the available threads.

#pragma once

#include "dots.h"

namespace {

constexpr Long kPieceBytes = 64 * 1024;  // smaller pieces of a matrix do not pay for a thread
constexpr int kPiecesPerThread = 4;      // so that a thread that starts late takes fewer

// x [rows, n], w [m, n], y [rows, m]. run(threads, pieces, work) runs work(0) .. work(pieces - 1) on up to `threads` threads.
template <class D, class T, class Run>
void multiply(const void* x, Long rows, const void* w, void* y, Long n, Long m, int threads, const Run& run) {
  Long worth = m * n * static_cast<Long>(sizeof(T)) / kPieceBytes;
  int pieces = static_cast<int>(std::max<Long>(1, std::min<Long>(worth, kPiecesPerThread * threads)));
  auto* out = static_cast<T*>(y);
  run(threads, pieces, [=](int piece) {
    Long first, last;
    share(m, piece, pieces, &first, &last);
    if (first < last) {
      dots<D>(static_cast<const T*>(x), rows, n, static_cast<const T*>(w), n, n, first, last,
              [=](Long r, Long o, float sum) { store(out + r * m + o, sum); });
    }
  });
}

}  // namespace
