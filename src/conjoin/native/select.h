// Picking tokens from a row of float32 scores. NaN counts as the best score, and of equal scores the first is the best.
// A row's result depends on that row alone.

#pragma once

#include "vectors.h"

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr Long kBlock = 64;  // scores that are compared with the limit at once

inline bool is_better(float a, float b) { return a > b || (std::isnan(a) && !std::isnan(b)); }

template <class Count>
bool any_above(const float* x, Count count, float limit) {
  int found = 0;
  for (Long i = 0; i < count; ++i) found |= !(x[i] <= limit);
  return found;
}

// Call look(first, last) for every block that holds NaN or a score above `limit`, which `look` may raise.
template <class Look>
void look_above(const float* x, Long first, Long n, const float& limit, Look look) {
  for (; first < n; first += kBlock) {
    bool found = first + kBlock <= n ? any_above(x + first, std::integral_constant<Long, kBlock>(), limit)
                                     : any_above(x + first, n - first, limit);
    if (found) look(first, std::min(first + kBlock, n));
  }
}

inline Long argmax(const float* x, Long n) {
  Long best = 0;
  float limit = x[0];
  look_above(x, 0, n, limit, [&](Long first, Long last) {
    for (Long i = first; i < last; ++i)
      if (is_better(x[i], limit)) best = i, limit = x[i];
  });
  return best;
}

// Candidates, best first. The caller's memory has room for `most` of them.
struct Best {
  float* values;
  Long* places;
  Long most, count = 0;

  bool takes(float value) const { return count < most || is_better(value, values[most - 1]); }

  // Add a candidate, behind its equals; the worst falls out if there is no room.
  void add(float value, Long place) {
    if (!takes(value)) return;
    Long i = count < most ? count++ : most - 1;
    for (; i > 0 && is_better(value, values[i - 1]); --i) values[i] = values[i - 1], places[i] = places[i - 1];
    values[i] = value, places[i] = place;
  }
};

// The k <= n best scores and their places, best first. Meant for small k: an insertion costs k.
inline void top_k(const float* x, Long n, Long k, float* values, Long* places) {
  Best best{values, places, k};
  for (Long i = 0; i < k; ++i) best.add(x[i], i);
  if (k > 0) {
    look_above(x, k, n, values[k - 1], [&](Long first, Long last) {
      for (Long i = first; i < last; ++i) best.add(x[i], i);
    });
  }
}

// log(sum(e^x)), NaN if a score is NaN. Sums of blocks are added up, so that long rows lose no digits.
inline float log_sum_exp(const float* x, Long n) {
  constexpr Long block = 1024;
  Floats tops = Floats{} + kMinusInfinity;
  for (Long i = 0; i < n; i += kWidth) tops = larger(load_chosen(x + i, first_of(n - i), kMinusInfinity), tops);
  float top = largest(tops);
  if (std::isinf(top)) {
    for (Long i = 0; i < n; ++i)
      if (std::isnan(x[i])) return x[i];
    return top;
  }
  Floats total{};
  for (Long begin = 0; begin < n; begin += block) {
    Floats part{};
    Long end = std::min(begin + block, n);
    for (Long i = begin; i < end; i += kWidth)
      part += exp_negative(load_chosen(x + i, first_of(end - i), kMinusInfinity) - top);
    total += part;
  }
  return top + std::log(sum(total));
}

// Scores become log-probabilities; NaN if all are minus infinity.
inline void log_softmax(float* x, Long n) {
  float total = log_sum_exp(x, n);
  for (Long i = 0; i < n; ++i) x[i] -= total;
}

}  // namespace
