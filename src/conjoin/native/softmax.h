// What attention does between its products in training: scale, bias, mask, softmax, dropout, and their gradients.

#pragma once

#include "philox.h"

namespace {

// Scores [rows, heads, queries, keys]. Bias and mask have strides along all axes but keys, which lie side by side.
struct Softmax {
  const uint8_t* mask;  // nonzero: may be read; null: everything
  const float* bias;    // null: none
  Long rows, heads, queries, keys;
  Long mask_row, mask_head, mask_query, bias_row, bias_head, bias_query;
  Long first_row;  // of all rows that a seed draws for
  float scale;
  Dropout dropout;
};

// One row of scores to weights; a dropped weight is negative. `read`, if there is one, has 0 in its place, and the others
// grown. `x` has room for whole vectors behind the row.
template <class T>
void soften_row(const Softmax& c, const float* scores, const uint8_t* mask, const float* bias, uint64_t row, float* x,
                T* weights, T* read) {
  constexpr float nothing = -std::numeric_limits<float>::infinity();
  Floats tops = Floats{} + nothing, sums{};
  for (Long j = 0; j < c.keys; j += 16) {
    Chosen there = first_of(c.keys - j);
    Floats some = load_chosen(scores + j, there, nothing) * c.scale;
    if (bias) some += load_chosen(bias + j, there, 0.0f);
    if (mask) there = nonzero(mask + j, there);
    some = choose(there, some, Floats{} + nothing);
    store_chosen(x + j, some, kAll);
    tops = larger(some, tops);
    sums += some;
  }
  float top = largest(tops);
  bool empty = top == nothing && !std::isnan(sum(sums));
  sums = Floats{};
  for (Long j = 0; j < c.keys; j += 16) {
    Floats some = empty ? Floats{} : exp_negative(load16(x + j) - top);
    store_chosen(x + j, some, kAll);
    sums += some;
  }
  float inverse = empty ? 0.0f : 1.0f / sum(sums);
  for (Long begin = 0; begin < c.keys; begin += kDraws) {
    uint16_t draws[kDraws];
    if (read) draw(c.dropout.seed, row, begin / kDraws, draws);
    Long end = std::min<Long>(begin + kDraws, c.keys);
    for (Long j = begin; j < end; j += 16) {
      Chosen there = first_of(end - j);
      Floats weight = load16(x + j) * inverse;
      if (read) {
        Chosen kept = c.dropout.keeps(draws + (j - begin));
        store_chosen(read + j, choose(kept, weight * c.dropout.growth(), Floats{}), there);
        weight = choose(kept, weight, -weight);
      }
      store_chosen(weights + j, weight, there);
    }
  }
}

template <class T>
void soften(const Softmax& c, const float* scores, T* weights, T* read, int threads) {
#pragma omp parallel num_threads(threads)
  {
    std::unique_ptr<float[]> x(new float[c.keys + 16]);
#pragma omp for schedule(static)
    for (Long i = 0; i < c.rows * c.heads * c.queries; ++i) {
      Long row = i / (c.heads * c.queries), head = i / c.queries % c.heads, query = i % c.queries;
      const uint8_t* mask =
          c.mask ? c.mask + row * c.mask_row + head * c.mask_head + query * c.mask_query : nullptr;
      const float* bias = c.bias ? c.bias + row * c.bias_row + head * c.bias_head + query * c.bias_query : nullptr;
      soften_row(c, scores + i * c.keys, mask, bias, c.first_row * c.heads * c.queries + i, x.get(),
                 weights + i * c.keys, read ? read + i * c.keys : nullptr);
    }
  }
}

// The gradient of what was read to that of scores, in its place: scale w (d_w - sum w d_w), where d_w is that of what was
// read, grown where it is kept and 0 where it was dropped. `read`, if wanted, is made again.
template <class T>
void soften_backward(const T* weights, T* slope, T* read, Long rows, Long keys, float growth, float scale, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Long i = 0; i < rows; ++i) {
    const T* w = weights + i * keys;
    T* d = slope + i * keys;
    Floats parts{};
    auto kept_of = [&](Floats weight) { return larger(Floats{}, weight) * growth; };  // NaN stays
    for (Long j = 0; j < keys; j += 16) {
      Chosen there = first_of(keys - j);
      Floats kept = kept_of(load_chosen(w + j, there, 0.0f));
      parts += load_chosen(d + j, there, 0.0f) * kept;
      if (read) store_chosen(read + i * keys + j, kept, there);
    }
    float part = sum(parts);
    for (Long j = 0; j < keys; j += 16) {
      Chosen there = first_of(keys - j);
      Floats weight = load_chosen(w + j, there, 0.0f);
      Floats some = load_chosen(d + j, there, 0.0f) * kept_of(weight) - part * size_of(weight);
      store_chosen(d + j, some * scale, there);
    }
  }
}

}  // namespace
