// Attention of few queries, distributed among the available threads; all arrays contiguous.

#pragma once

#include "attention.h"
#include "multiply.h"

namespace {

// Queries [sources * beams, heads, length, size], keys and values [sources, kv_heads, keys, size].
struct AttendSizes {
  Long sources, beams, heads, kv_heads, length, keys, size;
  Long mask_rows, mask_times;  // first and third size of the mask [1 or sources, 1, 1 or length, keys]; 0: no mask
  Long bias_times;             // third size of the bias [1, heads, 1 or length, keys]; 0: no bias
};

// out [sources * beams, length, heads, size]; `run` as for `multiply`.
template <class T, class Run>
void attend(const AttendSizes& s, float scale, const void* q, const void* k, const void* v, const void* mask,
            const void* bias, void* out, int threads, const Run& run) {
  Call<T, T, T> c{};
  c.q = static_cast<const T*>(q), c.k = static_cast<const T*>(k), c.v = static_cast<const T*>(v);
  c.mask = s.mask_rows ? static_cast<const uint8_t*>(mask) : nullptr;
  c.bias = s.bias_times ? static_cast<const float*>(bias) : nullptr;
  c.out = static_cast<T*>(out), c.scale = scale;
  c.sources = s.sources, c.beams = s.beams, c.heads = s.heads, c.kv_heads = s.kv_heads;
  c.length = s.length, c.keys = s.keys, c.size = s.size;
  c.q_time = c.k_time = c.v_time = s.size;
  c.q_head = s.length * s.size, c.q_row = s.heads * c.q_head;
  c.k_head = c.v_head = s.keys * s.size, c.k_row = c.v_row = s.kv_heads * c.k_head;
  c.mask_key = c.bias_key = 1;
  c.mask_time = s.mask_times > 1 ? s.keys : 0, c.mask_row = s.mask_rows > 1 ? s.mask_times * s.keys : 0;
  c.bias_time = s.bias_times > 1 ? s.keys : 0, c.bias_head = s.bias_times * s.keys;
  Long heads = s.sources * s.kv_heads, worth = 2 * heads * c.k_head * static_cast<Long>(sizeof(T)) / kPieceBytes;
  Long most = std::min<Long>(heads, kPiecesPerThread * threads);
  int pieces = static_cast<int>(std::max<Long>(1, std::min(worth, most)));
  run(threads, pieces, [&](int piece) {
    Scratch<T> scratch(c.queries(), c.size);
    for (Long head = heads * piece / pieces; head < heads * (piece + 1) / pieces; ++head)
      read_head(c, head / c.kv_heads, head % c.kv_heads, scratch);
  });
}

}  // namespace
