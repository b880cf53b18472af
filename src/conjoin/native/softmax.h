// A row of scores in training: scale, bias, mask, softmax, dropout, and their gradients.

#pragma once

#include "philox.h"

namespace {

// Range of keys that a query may read: [first, last).
struct Reach {
  Long first, last;
};

// A row of scores over the keys [begin, end), changed in place; `begin` starts a block of random numbers. Pointers are to
// key 0.
struct Row {
  float* x;
  Long begin, end;
  Reach reach;
  const uint8_t* mask;  // nonzero: may be read; null: all keys in reach
  const float* bias;    // null: none
};

inline Chosen in_reach(const Row& row, Long j) { return except(first_of(row.reach.last - j), first_of(row.reach.first - j)); }

// Scores become attention weights after dropout: 0 where they are dropped, the others scaled up. `weights` gets the
// weights before dropout, with a negative sign where they are dropped. A row without readable keys becomes zeros.
template <class T>
void soften_row(const Row& row, float scale, Dropout dropout, uint64_t place, T* weights) {
  constexpr float nothing = -std::numeric_limits<float>::infinity();
  Floats tops = Floats{} + nothing, sums{};
  for (Long j = row.begin; j < row.end; j += kWidth) {
    Chosen there = in_reach(row, j);
    Floats some = load(row.x + j) * scale;
    if (row.bias) some += load_chosen(row.bias + j, there, 0.0f);
    if (row.mask) there = nonzero(row.mask + j, there);
    some = choose(there, some, Floats{} + nothing);
    store_chosen(row.x + j, some, every());
    tops = larger(some, tops);
    sums += some;
  }
  float top = largest(tops);
  bool empty = top == nothing && !std::isnan(sum(sums));
  sums = Floats{};
  for (Long j = row.begin; j < row.end; j += kWidth) {
    Floats some = empty ? Floats{} : exp_negative(load(row.x + j) - top);
    store_chosen(row.x + j, some, every());
    sums += some;
  }
  float inverse = empty ? 0.0f : 1.0f / sum(sums);
  for (Long begin = row.begin; begin < row.end; begin += kDraws) {
    uint16_t draws[kDraws];
    if (dropout.drops()) draw(dropout.seed, place, begin / kDraws, draws);
    Long end = std::min<Long>(begin + kDraws, row.end);
    for (Long j = begin; j < end; j += kWidth) {
      Floats weight = load(row.x + j) * inverse;
      Chosen kept = dropout.keeps(draws + (j - begin));
      store_chosen(row.x + j, choose(kept, weight * dropout.growth(), Floats{}), every());
      store_chosen(weights + j, choose(kept, weight, -weight), first_of(row.end - j));
    }
  }
}

// The gradient of the weights after dropout becomes, in place, that of the biased scores: w (d_w - sum w d_w), where d_w
// is the gradient of the weights: scaled up where they were kept, 0 where they were dropped. `read` gets the weights
// after dropout.
template <class T>
void soften_row_backward(const T* weights, float* grad, float* read, Long begin, Long end, float growth) {
  Floats parts{};
  for (Long j = begin; j < end; j += kWidth) {
    Floats weight = load_chosen(weights + j, first_of(end - j), 0.0f);
    Floats kept = larger(Floats{}, weight) * growth;  // NaN stays
    store_chosen(read + j, kept, every());
    parts += load(grad + j) * kept;
  }
  float part = sum(parts);
  for (Long j = begin; j < end; j += kWidth) {
    Floats weight = load_chosen(weights + j, first_of(end - j), 0.0f);
    store_chosen(grad + j, load(grad + j) * load(read + j) - part * size_of(weight), every());
  }
}

}  // namespace
