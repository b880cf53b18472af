// Attention of few queries over many keys: online softmax, grouped heads, beams as queries.

#pragma once

#include "rows.h"

namespace {

// Queries [sources * beams, heads, length, size], keys and values [sources, kv_heads, keys, size], all with strides along
// the first three axes; out [sources * beams, length, heads, size], contiguous.
template <class Q, class T, class Out>
struct Call {
  const Q* q;
  const T *k, *v;
  const uint8_t* mask;  // nonzero: may be read; null: all keys
  const float* bias;    // null: none
  Out* out;
  Long sources, beams, heads, kv_heads, length, keys, size;
  Long q_row, q_head, q_time, k_row, k_head, k_time, v_row, v_head, v_time;
  Long mask_row, mask_time, mask_key, bias_head, bias_time, bias_key;
  float scale, softcap;  // softcap 0: none; else scores become softcap * tanh(scores / softcap)
  const T *prefix_k, *prefix_v;  // keys and values that are read before the others; null: none
  Long prefix, prefix_k_head, prefix_k_time, prefix_v_head, prefix_v_time;
  bool prefix_is_apart;  // bias and window do not count its keys; else they stand before the others
  Long own;              // causal, window: index of the key that belongs to the first query
  bool causal;           // a query reads no key after its own
  Long window, ahead;    // a query reads the keys k with own - k < window and k - own < ahead; window 0: all

  Long queries() const { return beams * length * (heads / kv_heads); }
};

constexpr Long kManyQueries = 8;  // from here on values are made float32 once for all of them

// Scratch memory of one thread for one head.
template <class T>
struct Scratch {
  std::unique_ptr<float[]> scores, mixed, most, total, scales, values;
  std::unique_ptr<typename Rows<T>::Query[]> queries;

  Scratch(Long count, Long size)
      : scores(new float[count * kKeys]), mixed(new float[count * size]), most(new float[count]),
        total(new float[count]), scales(new float[count]),
        values(std::is_same_v<T, float> || count < kManyQueries ? nullptr : new float[kKeys * size]),
        queries(new typename Rows<T>::Query[count * Rows<T>::query_size(size)]) {}
};

constexpr float kNothing = -std::numeric_limits<float>::infinity();

inline float largest_score(const float* s, Long width) {
  Floats tops = Floats{} + kNothing;
  for (Long j = 0; j < width; j += kWidth) tops = larger(load(s + j), tops);
  return largest(tops);
}

// Scores become e^(score - top), where `top` is the largest one so far; returns their sum. What is below the normal numbers
// becomes 0: products with others take many times as long.
inline float soften(float* s, Long width, float top) {
  constexpr float least = std::numeric_limits<float>::min();
  Floats sums{};
  for (Long j = 0; j < width; j += kWidth) {
    Floats some = exp_negative(load(s + j) - top);
    some = some < least ? Floats{} : some;  // NaN stays
    store(s + j, some);
    sums += some;
  }
  return sum(sums);
}

// Attention of all queries that read one key-value head of one source.
template <class Q, class T, class Out>
void read_head(const Call<Q, T, Out>& c, Long source, Long kv, Scratch<T>& scratch) {
  float *scores = scratch.scores.get(), *mixed = scratch.mixed.get();
  float *most = scratch.most.get(), *total = scratch.total.get();
  float* scales = scratch.scales.get();
  auto* queries = scratch.queries.get();
  Long group = c.heads / c.kv_heads, count = c.queries(), query_size = Rows<T>::query_size(c.size);
  auto place = [&](Long i, Long* row, Long* time, Long* head) {
    *head = kv * group + i % group;
    *time = i / group % c.length;
    *row = source * c.beams + i / (group * c.length);
  };
  for (Long i = 0; i < count; ++i) {
    Long row, time, head;
    place(i, &row, &time, &head);
    const Q* q = c.q + row * c.q_row + head * c.q_head + time * c.q_time;
    scales[i] = Rows<T>::take(q, c.size, queries + i * query_size) * c.scale;
    most[i] = kNothing;
    total[i] = 0;
    std::fill(mixed + i * c.size, mixed + (i + 1) * c.size, 0.0f);
  }
  // Keys [first, first + keys) in the order that bias and window count; `placed` if they do. The mask is over all keys, or
  // over the prefix.
  auto read = [&](const T* k, Long k_time, const T* v, Long v_time, Long keys, Long first, bool placed, const uint8_t* mask) {
    if (mask && (!c.mask_time || c.length == 1))  // padding at the end of a source is skipped
      while (keys && !mask[(keys - 1) * c.mask_key]) --keys;
    for (Long begin = 0; begin < keys; begin += kKeys) {
      Long width = std::min(kKeys, keys - begin), whole = (width + kWidth - 1) / kWidth * kWidth;
      const T *some_k = k + begin * k_time, *some_v = v + begin * v_time;
      Rows<T>::scores(queries, scales, count, some_k, k_time, c.size, width, scores);
      float v_scales[kKeys];
      Rows<T>::scales(some_v, v_time, c.size, width, v_scales);
      for (Long i = 0; i < count; ++i) {
        Long row, time, head;
        place(i, &row, &time, &head);
        float* s = scores + i * kKeys;
        if (c.softcap)
          for (Long j = 0; j < width; ++j) s[j] = c.softcap * tanh_exp(s[j] / c.softcap);
        if (c.bias && placed) {
          const float* b = c.bias + head * c.bias_head + time * c.bias_time + (first + begin) * c.bias_key;
          for (Long j = 0; j < width; ++j) s[j] += b[j * c.bias_key];
        }
        if (mask) {
          const uint8_t* m = mask + time * c.mask_time + begin * c.mask_key;
          for (Long j = 0; j < width; ++j)
            if (!m[j * c.mask_key]) s[j] = kNothing;
        }
        if ((c.causal || c.window) && placed) {
          Long own = c.own + time - first, end = c.causal ? own + 1 : own + c.ahead, low = c.window ? own - c.window + 1 : 0;
          for (Long j = std::max<Long>(0, end - begin); j < width; ++j) s[j] = kNothing;
          for (Long j = 0; j < std::min(width, low - begin); ++j) s[j] = kNothing;
        }
        std::fill(s + width, s + whole, kNothing);
        float top = std::max(most[i], largest_score(s, whole)), *acc = mixed + i * c.size;
        if (top == kNothing) {  // no readable key so far
          std::fill(s, s + width, 0.0f);
          continue;
        }
        float keep = most[i] == top ? 1.0f : exp_negative(most[i] - top);
        if (keep != 1.0f)
          for (Long e = 0; e < c.size; ++e) acc[e] *= keep;
        total[i] = total[i] * keep + soften(s, whole, top);
        most[i] = top;
        Rows<T>::weigh(s, v_scales, width);
      }
      auto mix_all = [&](auto* values, Long time) {
        Long i = 0;
        for (; i + 4 <= count; i += 4) mix<4>(scores + i * kKeys, values, time, width, c.size, mixed + i * c.size);
        for (; i < count; ++i) mix<1>(scores + i * kKeys, values, time, width, c.size, mixed + i * c.size);
      };
      if constexpr (!std::is_same_v<T, float>) {
        if (count >= kManyQueries) {
          widen_rows(some_v, v_time, width, c.size, scratch.values.get());
          mix_all(scratch.values.get(), c.size);
          continue;
        }
      }
      mix_all(some_v, v_time);
    }
  };
  const uint8_t* mask = c.mask ? c.mask + source * c.mask_row : nullptr;
  if (c.prefix_k) {
    read(c.prefix_k + kv * c.prefix_k_head, c.prefix_k_time, c.prefix_v + kv * c.prefix_v_head, c.prefix_v_time, c.prefix, 0,
         !c.prefix_is_apart, mask);
    mask = nullptr;
  }
  read(c.k + source * c.k_row + kv * c.k_head, c.k_time, c.v + source * c.v_row + kv * c.v_head, c.v_time, c.keys,
       c.prefix_is_apart ? 0 : c.prefix, true, mask);
  for (Long i = 0; i < count; ++i) {  // out is [rows, length, heads, size], contiguous
    Long row, time, head;
    place(i, &row, &time, &head);
    Out* out = c.out + ((row * c.length + time) * c.heads + head) * c.size;
    float inverse = total[i] > 0 ? 1.0f / total[i] : 0.0f;  // a query that may read nothing gets zeros
    for (Long e = 0; e < c.size; ++e) store(out + e, mixed[i * c.size + e] * inverse);
  }
}

}  // namespace
