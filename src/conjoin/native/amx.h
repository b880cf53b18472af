// Dot products on AMX: tiles of 16 rows of weights, read in place, times tiles of up to 16 rows of x.
//
// A tile register holds 16 rows of 64 bytes, and one instruction adds the products of two of them to 16 x 16 sums. The
// sums are transposed, W x^T, so that the factor that must be interleaved (numbers of several rows alternate, four bytes
// of each) is x, which is copied anyway. Each sum is the same sequence of instructions over the same steps for any number
// of rows: what the other columns of a tile hold, and how many there are, does not matter to it.
//
// Tiles have no state between calls: `TileUse` sets their shapes and releases them, because other libraries in the same
// thread set shapes of their own, and because the system saves registers that are in use at every switch of threads.

#pragma once

#include "packed.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define HAS_AMX 1
#endif

namespace {

// True for kinds that tiles multiply.
template <class D>
struct OnTiles {
  static constexpr bool value = false;
};

#if defined(HAS_AMX)

template <>
struct OnTiles<Brain> {
  static constexpr bool value = true;
  template <int C, int A, int B>
  static void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};

template <>
struct OnTiles<Bytes> {
  static constexpr bool value = true;
  template <int C, int A, int B>
  static void multiply() {  // weights are signed, x is not
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};

constexpr int kTile = 16;          // rows of a tile
constexpr Long kTileLine = 64;     // bytes of each: one step, also one cache line
constexpr Long kFewOnVectors = 4;  // for so few rows, exact sums, which may come in any order, are faster on vectors
constexpr Long kTilesHeld = 1024 * 1024, kWeightsHeld = 320 * 1024;  // bytes of x and of weights in the L2 cache

template <int T>
inline void load_tile(const void* p, Long stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(T) : "memory");
}
template <int T>
inline void store_tile(void* p, Long stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(T) : "memory");
}
template <int T>
inline void clear_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(T));
}

// Registers 0 to 3 are sums, 4 and 5 are x, 6 and 7 weights.
class TileUse {
 public:
  TileUse(Long outputs, Long rows) {
    for (int t = 0; t < 8; ++t) {
      shapes_.bytes[t] = static_cast<uint16_t>(t < 6 ? 4 * rows : kTileLine);
      shapes_.rows[t] = static_cast<uint8_t>(t == 4 || t == 5 ? kTile : outputs);
    }
    asm volatile("ldtilecfg %0" ::"m"(shapes_));
  }
  TileUse(const TileUse&) = delete;
  TileUse& operator=(const TileUse&) = delete;
  ~TileUse() { asm volatile("tilerelease" ::: "memory"); }

 private:
  struct alignas(64) {
    uint8_t palette = 1, start = 0, unused[14] = {};
    uint16_t bytes[16] = {};  // of a row
    uint8_t rows[16] = {};
  } shapes_;
};

// Transpose 16 x 16 numbers of 32 bits.
inline void transpose(__m512i* v) {
  __m512i a[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // within each four lanes
    __m512i low = _mm512_unpacklo_epi32(v[i], v[i + 1]), high = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    __m512i low2 = _mm512_unpacklo_epi32(v[i + 2], v[i + 3]), high2 = _mm512_unpackhi_epi32(v[i + 2], v[i + 3]);
    a[i] = _mm512_unpacklo_epi64(low, low2), a[i + 1] = _mm512_unpackhi_epi64(low, low2);
    a[i + 2] = _mm512_unpacklo_epi64(high, high2), a[i + 3] = _mm512_unpackhi_epi64(high, high2);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // fours
    __m512i even = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88), odd = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
    __m512i even2 = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88), odd2 = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
    v[i] = _mm512_shuffle_i32x4(even, even2, 0x88), v[i + 8] = _mm512_shuffle_i32x4(even, even2, 0xdd);
    v[i + 4] = _mm512_shuffle_i32x4(odd, odd2, 0x88), v[i + 12] = _mm512_shuffle_i32x4(odd, odd2, 0xdd);
  }
}

// Four numbers of 8 bits or two of 16 bits of every row in turn, `width` rows; rows that do not exist, and the rest of the
// last step, are zeros. `to` has room for one more step.
template <class X>
void interleave(const X* x, Long stride, Long rows, Long width, Long n, char* to) {
  constexpr Long line = kTileLine / sizeof(X);
  for (Long k = 0; k < n; k += line) {
    const int some = static_cast<int>(std::min(line, n - k));
    auto part = [&](Long r) {
      return (__m512i)(some == line ? load_as<Words>(x + r * stride + k) : load_some_as<Words>(x + r * stride + k, some));
    };
    if (width == 1) {
      _mm512_storeu_si512(to, part(0));
      to += kTileLine;
      continue;
    }
    __m512i v[kTile];
#pragma GCC unroll 16
    for (Long r = 0; r < kTile; ++r) v[r] = r < rows ? part(r) : _mm512_setzero_si512();
    transpose(v);
#pragma GCC unroll 16
    for (int i = 0; i < kTile; ++i, to += 4 * width) _mm512_storeu_si512(to, v[i]);  // the next store ends this one
  }
}

// Bytes that are prefetched while tiles are computed, in the order of addresses, which the hardware recognises.
struct Stream {
  const char *next = nullptr, *end = nullptr;
  Long each = 0;  // bytes at a time

  void advance() {
    for (const char* stop = std::min(end, next + each); next < stop; next += kTileLine) __builtin_prefetch(next, 0, 2);
  }
};

// Matrices of one call, in bytes.
struct TileCall {
  const char* w;
  Long w_stride, x_tile, steps, rest;  // distance of tiles of x; whole steps; bytes of a row of weights after them
  Long outputs, width;                 // rows of weights and of x in a tile
};

// Sums of A tiles of weights, which begin at `w`, and B of x, for B * width rows of `out`.
template <class D, int A, int B, class S>
__attribute__((noinline)) void tile_sums(const TileCall& c, const char* const* w, const char* x, Stream& stream,
                                         S* const* out) {
  static_assert(A * B <= 4 && B <= 2);
  clear_tile<0>();
  if constexpr (A * B > 1) clear_tile<1>();
  if constexpr (A * B > 2) clear_tile<2>();
  if constexpr (A * B > 3) clear_tile<3>();
  auto step = [&](const char* w0, const char* w1, const char* w2, const char* w3, Long stride, const char* from) {
    using T = OnTiles<D>;
    load_tile<4>(from, 4 * c.width);
    load_tile<6>(w0, stride);
    T::template multiply<0, 6, 4>();
    if constexpr (B == 2) {
      load_tile<5>(from + c.x_tile, 4 * c.width);
      T::template multiply<1, 6, 5>();
    }
    if constexpr (A > 1) {
      load_tile<7>(w1, stride);
      T::template multiply<B, 7, 4>();
      if constexpr (B == 2) T::template multiply<3, 7, 5>();
    }
    if constexpr (A > 2) {
      load_tile<6>(w2, stride);
      T::template multiply<2, 6, 4>();
    }
    if constexpr (A > 3) {
      load_tile<7>(w3, stride);
      T::template multiply<3, 7, 4>();
    }
  };
  constexpr int one = A > 1 ? 1 : 0, two = A > 2 ? 2 : 0, three = A > 3 ? 3 : 0;
  Long at = 0;
  for (Long s = 0; s < c.steps; ++s, at += kTileLine, x += kTile * 4 * c.width) {
    stream.advance();
    step(w[0] + at, w[one] + at, w[two] + at, w[three] + at, c.w_stride, x);
  }
  if (c.rest) {  // nothing is read behind the end of a row, and zeros are added
    alignas(64) char ends[A][kTile * kTileLine];
    for (int a = 0; a < A; ++a)
      for (Long o = 0; o < c.outputs; ++o)
        _mm512_store_si512(ends[a] + o * kTileLine, (__m512i)load_some_as<Words>(w[a] + o * c.w_stride + at, static_cast<int>(c.rest)));
    step(ends[0], ends[one], ends[two], ends[three], kTileLine, x);
  }
  alignas(64) S sums[A * B][kTile * kTile];
  const Long stride = c.width == 1 ? 4 : kTileLine;
  store_tile<0>(sums[0], stride);
  if constexpr (A * B > 1) store_tile<1>(sums[1], stride);
  if constexpr (A * B > 2) store_tile<2>(sums[2], stride);
  if constexpr (A * B > 3) store_tile<3>(sums[3], stride);
  for (int a = 0; a < A; ++a) {
    for (int b = 0; b < B; ++b) {
      const S* from = sums[a * B + b];
      if (c.width == 1) {
        std::memcpy(out[a] + b * kGroupStride, from, c.outputs * sizeof(S));
        continue;
      }
      __m512i v[kTile];
#pragma GCC unroll 16
      for (int i = 0; i < kTile; ++i) v[i] = _mm512_load_si512(from + i * kTile);
      transpose(v);
#pragma GCC unroll 16
      for (int r = 0; r < kTile; ++r)
        if (r < c.width) _mm512_storeu_si512(out[a] + (b * c.width + r) * kGroupStride, v[r]);
    }
  }
}

template <class D, class Finish>
void tile_dots(const typename D::X* x, Long rows, Long x_stride, const typename D::W* w, Long w_stride, Long n, Long first,
               Long last, const Finish& finish) {
  constexpr Long size = sizeof(typename D::W), most = 4 * kTile;
  using S = typename D::Sum;
  const Long length = (n * size + kTileLine - 1) / kTileLine * kTileLine;  // bytes of a row, padded
  const Long tiles = (rows + kTile - 1) / kTile, width = (rows + tiles - 1) / tiles;
  const Long fitting = std::max<Long>(2, kTilesHeld / (kTile * length + 1) / 2 * 2), pieces = (tiles + fitting - 1) / fitting;
  const Long held = pieces == 1 ? tiles : ((tiles + pieces - 1) / pieces + 1) / 2 * 2;
  const Long group = tiles == 1 || 2 * most * n * size > kWeightsHeld ? most / 2 : most;
  TileCall c{reinterpret_cast<const char*>(w), w_stride * size, width * length, n * size / kTileLine, n * size % kTileLine,
             std::min<Long>(kTile, last - first), width};
  char* xs = reinterpret_cast<char*>(buffer<D>(held * c.x_tile / kTileLine + 1));
  alignas(64) S sums[2 * kTile * kGroupStride];
  const TileUse use(c.outputs, width);
  for (Long begin = 0; begin < tiles; begin += held) {
    const Long end = std::min(tiles, begin + held);
    for (Long t = begin; t < end; ++t)
      interleave(x + t * width * x_stride, x_stride, std::min(width, rows - t * width), width, n, xs + (t - begin) * c.x_tile);
    for (Long g = first; g < last; g += group) {
      const Long stop = std::min(last, g + group), count = (stop - g + kTile - 1) / kTile;
      // Tiles at the end overlap, so that none reads behind it.
      const char* from[4];
      S* to[4];
      const Long base = std::min(g, last - c.outputs);
      for (Long a = 0; a < 4; ++a) {
        const Long start = std::min(g + a * kTile, last - c.outputs);
        from[a] = c.w + start * c.w_stride, to[a] = sums + (start - base);
      }
      Stream stream;
      if (w_stride == n && stop < last) {
        stream.next = c.w + stop * c.w_stride, stream.end = c.w + std::min(last, stop + group) * c.w_stride;
        const Long visits = std::max<Long>(1, c.steps) * ((end - begin + 1) / 2) * (end - begin > 1 ? (count + 1) / 2 : 1);
        stream.each = ((stream.end - stream.next) / visits / kTileLine + 1) * kTileLine;
      }
      for (Long t = begin; t < end; t += 2) {
        const char* some = xs + (t - begin) * c.x_tile;
        const Long both = std::min<Long>(2, end - t);
        if (both == 2) {
          if (count > 1) tile_sums<D, 2, 2, S>(c, from, some, stream, to);
          else tile_sums<D, 1, 2, S>(c, from, some, stream, to);
          if (count == 3) tile_sums<D, 1, 2, S>(c, from + 2, some, stream, to + 2);
          if (count == 4) tile_sums<D, 2, 2, S>(c, from + 2, some, stream, to + 2);
        } else {
          if (count == 4) tile_sums<D, 4, 1, S>(c, from, some, stream, to);
          else if (count == 3) tile_sums<D, 3, 1, S>(c, from, some, stream, to);
          else if (count == 2) tile_sums<D, 2, 1, S>(c, from, some, stream, to);
          else tile_sums<D, 1, 1, S>(c, from, some, stream, to);
        }
        const Long row = t * width;
        finish_group(sums + (g - base), row, std::min(both * width, rows - row), g, stop, finish);
      }
    }
  }
}

#endif

}  // namespace
