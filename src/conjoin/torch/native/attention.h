// Attention of few queries over many keys: online softmax, grouped heads, beams as queries.

#pragma once

#include <type_traits>

#include "dots.h"

namespace {

constexpr Long kKeys = 128;  // keys looked at together

// What a cache's numbers are multiplied as.
template <class T>
struct DotsOf {
  using type = Wide<float>;
};
template <>
struct DotsOf<bf16> {
  using type = Brain;
};
template <class T>
using Number = typename DotsOf<T>::type::X;

// ---- rows of a cache: `size` numbers; in 8 bits, whole ones, then their unit as a float32 at the next multiple of 4 ----

inline Long unit_at(Long size) { return (size + 3) / 4 * 4; }

template <class T>
inline void keep(T* row, const float* x, Long size) {
  for (Long e = 0; e < size; ++e) store(row + e, x[e]);
}

inline void keep(int8_t* row, const float* x, Long size) {
  float most = 0;
#pragma omp simd reduction(max : most)
  for (Long e = 0; e < size; ++e) most = std::max(most, std::fabs(x[e]));
  float unit = most / 127.0f, inverse = most > 0 ? 127.0f / most : 0.0f;
  for (Long e = 0; e < size; ++e) row[e] = static_cast<int8_t>(static_cast<int>(rintf(x[e] * inverse)));
  std::memcpy(row + unit_at(size), &unit, sizeof(unit));
}

inline void widen(const int8_t* row, Long size, float* out) {
  float unit;
  std::memcpy(&unit, row + unit_at(size), sizeof(unit));
  Long e = 0;
  for (; e + 16 <= size; e += 16) {
    Floats x = load16(row + e) * unit;
    std::memcpy(out + e, &x, sizeof(x));
  }
  for (; e < size; ++e) out[e] = row[e] * unit;
}

template <class T>
struct Rows {
  const Number<T>* at;
  Long stride;
};

// Rows as they are multiplied: where they lie, or widened into `room`.
template <class T>
inline Rows<T> rows_of(const T* from, Long stride, Long count, Long size, float* room) {
  if constexpr (std::is_same_v<T, int8_t>) {
    for (Long j = 0; j < count; ++j) widen(from + j * stride, size, room + j * size);
    return {room, size};
  } else {
    return {from, stride};
  }
}

// Queries [sources * beams, heads, length, size], keys and values [sources, kv_heads, keys, size], all with strides along
// the first three axes; out [sources * beams, length, heads, size], contiguous.
template <class Q, class T, class Out>
struct Call {
  const Q* q;
  const T *k, *v;
  const uint8_t* mask;  // nonzero: may be read; null: everything
  const float* bias;    // null: none
  Out* out;
  Long sources, beams, heads, kv_heads, length, keys, size;
  Long q_row, q_head, q_time, k_row, k_head, k_time, v_row, v_head, v_time;
  Long mask_row, mask_time, mask_key, bias_head, bias_time, bias_key;
  float scale;
  bool causal;  // the queries are the last of the keys' positions, and read no later ones
  Long window;  // with causal: so many keys, its own the last; 0: all

  Long queries() const { return beams * length * (heads / kv_heads); }
};

// What one thread needs to work on a head.
template <class T>
struct Scratch {
  std::unique_ptr<float[]> scores, mixed, most, total, wide;
  std::unique_ptr<Number<T>[]> queries;

  Scratch(Long count, Long size)
      : scores(new float[count * kKeys]), mixed(new float[count * size]), most(new float[count]),
        total(new float[count]), wide(std::is_same_v<T, int8_t> ? new float[kKeys * size] : nullptr),
        queries(new Number<T>[count * size]) {}
};

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// One key-value head of one source, for every query that reads it.
template <class Q, class T, class Out>
void read_head(const Call<Q, T, Out>& c, Long source, Long kv, Scratch<T>& scratch) {
  using D = typename DotsOf<T>::type;
  float *scores = scratch.scores.get(), *mixed = scratch.mixed.get();
  float *most = scratch.most.get(), *total = scratch.total.get();
  Number<T>* queries = scratch.queries.get();
  Long group = c.heads / c.kv_heads, count = c.queries();
  auto place = [&](Long i, Long* row, Long* time, Long* head) {
    *head = kv * group + i % group;
    *time = i / group % c.length;
    *row = source * c.beams + i / (group * c.length);
  };
  for (Long i = 0; i < count; ++i) {
    Long row, time, head;
    place(i, &row, &time, &head);
    const Q* q = c.q + row * c.q_row + head * c.q_head + time * c.q_time;
    for (Long e = 0; e < c.size; ++e) {
      if constexpr (std::is_same_v<Q, Number<T>>)
        queries[i * c.size + e] = q[e];
      else
        store(queries + i * c.size + e, to_float(q[e]));
    }
    most[i] = kNothing;
    total[i] = 0;
    std::fill(mixed + i * c.size, mixed + (i + 1) * c.size, 0.0f);
  }
  const T* k = c.k + source * c.k_row + kv * c.k_head;
  const T* v = c.v + source * c.v_row + kv * c.v_head;
  Long keys = c.keys;  // the padding behind a source is not looked at
  if (c.mask && !c.mask_time)
    while (keys && !c.mask[source * c.mask_row + (keys - 1) * c.mask_key]) --keys;
  for (Long begin = 0; begin < keys; begin += kKeys) {
    Long width = std::min(kKeys, keys - begin);
    Rows<T> block = rows_of(k + begin * c.k_time, c.k_time, width, c.size, scratch.wide.get());
    dots<D>(queries, count, c.size, block.at, block.stride, c.size, 0, width,
            [&](Long r, Long o, float sum) { scores[r * kKeys + o] = sum * c.scale; });
    block = rows_of(v + begin * c.v_time, c.v_time, width, c.size, scratch.wide.get());
    for (Long i = 0; i < count; ++i) {
      Long row, time, head;
      place(i, &row, &time, &head);
      float* s = scores + i * kKeys;
      if (c.bias) {
        const float* b = c.bias + head * c.bias_head + time * c.bias_time + begin * c.bias_key;
        for (Long j = 0; j < width; ++j) s[j] += b[j * c.bias_key];
      }
      if (c.mask) {
        const uint8_t* m = c.mask + source * c.mask_row + time * c.mask_time + begin * c.mask_key;
        for (Long j = 0; j < width; ++j)
          if (!m[j * c.mask_key]) s[j] = kNothing;
      }
      if (c.causal) {
        Long own = c.keys - c.length + time;
        Long low = c.window ? own - c.window + 1 : 0;
        for (Long j = std::max<Long>(0, own + 1 - begin); j < width; ++j) s[j] = kNothing;
        for (Long j = 0; j < std::min(width, low - begin); ++j) s[j] = kNothing;
      }
      float top = most[i];
#pragma omp simd reduction(max : top)
      for (Long j = 0; j < width; ++j) top = std::max(top, s[j]);
      float sum = 0, *acc = mixed + i * c.size;
      if (top == kNothing) continue;  // nothing to read so far
      float keep = most[i] == top ? 1.0f : exp_negative(most[i] - top);
      if (keep != 1.0f)
        for (Long e = 0; e < c.size; ++e) acc[e] *= keep;
      for (Long j = 0; j < width; ++j)
        s[j] = s[j] == kNothing ? 0.0f : exp_negative(s[j] - top);
#pragma omp simd reduction(+ : sum)
      for (Long j = 0; j < width; ++j) sum += s[j];
      total[i] = total[i] * keep + sum;
      most[i] = top;
      Long e = 0;
      for (; e + 64 <= c.size; e += 64) {
        Floats a0 = load16(acc + e), a1 = load16(acc + e + 16), a2 = load16(acc + e + 32), a3 = load16(acc + e + 48);
        const Number<T>* p = block.at + e;
        for (Long j = 0; j < width; ++j, p += block.stride) {
          a0 += s[j] * load16(p);
          a1 += s[j] * load16(p + 16);
          a2 += s[j] * load16(p + 32);
          a3 += s[j] * load16(p + 48);
        }
        std::memcpy(acc + e, &a0, 64);
        std::memcpy(acc + e + 16, &a1, 64);
        std::memcpy(acc + e + 32, &a2, 64);
        std::memcpy(acc + e + 48, &a3, 64);
      }
      for (; e + 16 <= c.size; e += 16) {
        Floats a = load16(acc + e);
        const Number<T>* p = block.at + e;
        for (Long j = 0; j < width; ++j, p += block.stride) a += s[j] * load16(p);
        std::memcpy(acc + e, &a, 64);
      }
      for (; e < c.size; ++e)
        for (Long j = 0; j < width; ++j) acc[e] += s[j] * to_float(block.at[j * block.stride + e]);
    }
  }
  for (Long i = 0; i < count; ++i) {  // out is [rows, length, heads, size], contiguous
    Long row, time, head;
    place(i, &row, &time, &head);
    Out* out = c.out + ((row * c.length + time) * c.heads + head) * c.size;
    float inverse = total[i] > 0 ? 1.0f / total[i] : 0.0f;  // a query that may read nothing gets zeros
    for (Long e = 0; e < c.size; ++e) store(out + e, mixed[i * c.size + e] * inverse);
  }
}

}  // namespace
