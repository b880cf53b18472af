// The gradient of a linear layer's weight, dW = dY^T X. Libraries copy a factor that they need transposed; this does not.

#pragma once

#include "threads.h"
#include "tiles.h"

namespace {

// The block of dW of one task: its rows' factor stays in the L2 cache; with many threads, blocks have fewer columns.
constexpr Long kBlockRows = 32 * kTileRows, kBlockColumns = 12 * kPanel, kLeastColumns = 3 * kPanel, kBlockDepth = 384;
constexpr Long kBlockStride = kBlockRows + 16;  // so that consecutive rows map to different sets of the L1 cache

// dw [m, n] = dy [rows, m]^T x [rows, n], or dw += that product; all contiguous. Blocks of rows are summed in order,
// whatever the number of threads.
template <class T>
void weight_gradient(const T* dy, const T* x, float* dw, Long rows, Long m, Long n, bool add, int threads) {
  Long blocks = rounded_up(m, kBlockRows) / kBlockRows, columns = kBlockColumns;
  while (columns > kLeastColumns && blocks * rounded_up(n, columns) / columns < 2 * threads) columns /= 2;
  Long across = rounded_up(n, columns) / columns;
  parallel_for(threads, blocks * across, [&](Long task) {
    Long top = task / across * kBlockRows, left = task % across * columns;
    Workspace& space = Workspace::own();
    float *a = space.take(kBlockDepth, kBlockStride), *b = space.take(kBlockDepth, kPanel);
    float* c = space.take(kBlockRows, columns);
    Long height = std::min(kBlockRows, m - top), width = std::min(columns, n - left);
    if (!rows) std::fill(c, c + height * columns, 0.0f);
    for (Long first = 0; first < rows; first += kBlockDepth) {
      Long depth = std::min(kBlockDepth, rows - first);
      copy_rows(dy + first * m + top, m, depth, height, a, kBlockStride);
      for (Long at = 0; at < width; at += kPanel) {
        Long some = std::min(kPanel, width - at);
        Panels panel = copy_panels(x + first * n + left + at, n, depth, some, b);
        product({a, 1, kBlockStride}, height, panel, 0, depth, 0, some, c + at, columns, first > 0);
      }
    }
    for (Long r = 0; r < height; ++r) {
      float* to = dw + (top + r) * n + left;
      for (Long i = 0; i < width; ++i) to[i] = add ? to[i] + c[r * columns + i] : c[r * columns + i];
    }
  });
}

}  // namespace
