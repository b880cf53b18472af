// Products of float32 matrices in the L2 cache: those of attention, head by head, and blocks of larger products.

#pragma once

#include <vector>

#include "vectors.h"

namespace {

constexpr Long kPanel = 64;     // columns of a panel of the second factor
constexpr Long kTileRows = 12;  // most rows of a tile; scratch memory has this many extra rows

inline Long rounded_up(Long count, Long unit) { return (count + unit - 1) / unit * unit; }

// A second factor: [columns / 64, rows, 64], padded with zeros after its last column.
struct Panels {
  float* p;
  Long rows;

  float* panel(Long column) const { return p + column * rows; }  // `column` is the first of a panel
};

template <class T>
void copy_rows(const T* from, Long step, Long rows, Long columns, float* to, Long to_step) {
  for (Long r = 0; r < rows; ++r)
    for (Long i = 0; i < columns; ++i) to[r * to_step + i] = to_float(from[r * step + i]);
}

template <class T>
Panels copy_panels(const T* from, Long step, Long rows, Long columns, float* to) {
  Panels panels{to, rows};
  for (Long at = 0; at < columns; at += kPanel) {
    Long width = std::min(kPanel, columns - at);
    float* panel = panels.panel(at);
    copy_rows(from + at, step, rows, width, panel, kPanel);
    for (Long r = 0; r < rows; ++r) std::fill(panel + r * kPanel + width, panel + (r + 1) * kPanel, 0.0f);
  }
  return panels;
}

// A first factor: element (i, k) at i * row + k * step.
struct Factor {
  const float* p;
  Long row, step;
};

template <int R, int V>
inline void product_tile(Factor a, const float* b, Long depth, float* c, Long c_row, bool add) {
  Floats sums[R][V];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r][v] = add ? load(c + r * c_row + kWidth * v) : Floats{};
  for (Long k = 0; k < depth; ++k, b += kPanel) {
    Floats factors[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) factors[v] = load(b + kWidth * v);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      Floats x = Floats{} + a.p[r * a.row + k * a.step];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[r][v] += x * factors[v];
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(c + r * c_row + kWidth * v, sums[r][v]);
}

template <int R, int V>
void product_strip(Factor a, Long rows, const float* b, Long depth, float* c, Long c_row, bool add) {
  for (Long r = 0; r < rows; r += R)
    product_tile<R, V>({a.p + r * a.row, a.row, a.step}, b, depth, c + r * c_row, c_row, add);
}

// c = a b, or c += a b: `rows` rows of a, rows first .. first + depth of b, columns begin .. end; `begin` starts a panel.
// Whole tiles are written: up to kTileRows extra rows and 16 extra columns.
inline void product(Factor a, Long rows, const Panels& b, Long first, Long depth, Long begin, Long end, float* c,
                    Long c_row, bool add = false) {
  for (Long at = begin; at < end; at += kPanel) {
    const float* panel = b.panel(at) + first * kPanel;
    float* to = c + at;
#if defined(HAS_AVX512)
    switch ((std::min(kPanel, end - at) + 15) / 16) {
      case 1: product_strip<12, 1>(a, rows, panel, depth, to, c_row, add); break;
      case 2: product_strip<12, 2>(a, rows, panel, depth, to, c_row, add); break;
      case 3: product_strip<8, 3>(a, rows, panel, depth, to, c_row, add); break;
      default: product_strip<6, 4>(a, rows, panel, depth, to, c_row, add); break;
    }
#else
    for (Long i = 0; i < std::min(kPanel, end - at); i += 16)
      product_strip<6, 16 / kWidth>(a, rows, panel + i, depth, to + i, c_row, add);
#endif
  }
}

// Memory of a thread, kept between calls; `take` returns memory aligned to a cache line.
class Workspace {
 public:
  float* take(Long rows, Long width) {
    if (used_ == pieces_.size()) pieces_.emplace_back();
    std::vector<Line>& piece = pieces_[used_++];
    size_t size = static_cast<size_t>((rows + kTileRows) * width + 15) / 16;  // whole tiles may be written
    if (piece.size() < size) piece.resize(size);
    return piece.data()->numbers;
  }

  static Workspace& own() {
    static thread_local Workspace workspace;
    workspace.used_ = 0;
    return workspace;
  }

 private:
  struct alignas(64) Line {
    float numbers[16];
  };

  std::vector<std::vector<Line>> pieces_;
  size_t used_ = 0;
};

}  // namespace
