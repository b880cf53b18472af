// Logits processors that are arithmetic, on one row of float32 scores in place: rules of conjoin.functional.processors.

#pragma once

#include "select.h"

namespace {

// In the order of _KINDS in torch/cpu/native/rules.py.
enum RuleKind : Long {
  kBias,
  kPenalty,
  kNoRepeat,
  kForbid,
  kForce,
  kRemoveInvalid,
  kDecay,
  kTemperature,
  kTopK,
  kMinP,
  kEpsilon,
  kEta,
  kNormalise,
};

// A processor and its settings; torch/cpu/native/rules.py has the same fields. Rules may be shared by many rows.
struct Rule {
  Long kind;
  Long first, last;        // edits rows of first <= length < last tokens
  Long size;               // kNoRepeat: tokens of a run; kTopK: tokens left; kPenalty: leading tokens that do not count
  Long keep;               // warpers: tokens left at least
  double value;            // penalty, temperature, factor or probability
  double fill;             // warpers: score of what is dropped
  Long count;              // number of tokens; kBias: number of runs
  const Long* tokens;      // distinct; kBias: all runs, those with the same last token in succession
  const Long* ends;        // kBias: where each run ends in `tokens`
  const float* biases;     // kBias: of each run
  const Long* source_ids;  // [sources, source_length]; null: the row's own tokens are looked at
  const uint8_t* source_mask;  // nonzero: is no padding; null: none is
  Long source_length;
  const Long* starts;      // kPenalty, [sources]: where the prompt's padding on the left ends; null: there is none
};

// Memory for process_row: as many numbers and places as the vocabulary, the row's tokens or a source has.
struct RuleMemory {
  float* numbers;
  Long* places;
};

// What a rule edits, and what it looks at.
struct Edited {
  const Long* ids;
  Long length;
  float* scores;
  Long vocab;
  Long source;
  RuleMemory memory;
};

// Tokens that a rule looks at: those of the row, or of its source.
struct Seen {
  const Long* ids;
  const uint8_t* mask;
  Long first, count, vocab;

  Seen(const Rule& rule, const Edited& row)
      : ids(row.ids), mask(nullptr), first(0), count(row.length), vocab(row.vocab) {
    if (!rule.source_ids) return;
    ids = rule.source_ids + row.source * rule.source_length;
    if (rule.source_mask) mask = rule.source_mask + row.source * rule.source_length;
    count = rule.source_length;
  }
  bool counts(Long i) const { return (!mask || mask[i]) && ids[i] >= 0 && ids[i] < vocab; }
};

inline bool in_vocabulary(Long token, const Edited& row) { return token >= 0 && token < row.vocab; }

// Add to the token that would complete a run of tokens; every score is added to once.
inline void add_biases(const Rule& rule, const Edited& row) {
  for (Long run = 0, begin = 0; run < rule.count;) {
    Long token = rule.tokens[rule.ends[run] - 1];
    float total = 0;
    for (; run < rule.count && rule.tokens[rule.ends[run] - 1] == token; begin = rule.ends[run++]) {
      const Long *tokens = rule.tokens + begin, *last = rule.tokens + rule.ends[run] - 1;
      Long known = last - tokens;
      if (known <= row.length && std::equal(tokens, last, row.ids + row.length - known)) total += rule.biases[run];
    }
    if (in_vocabulary(token, row) && total != 0) row.scores[token] += total;
  }
}

// Divide the positive scores of tokens that were seen, and multiply the negative ones, once for each token.
inline void penalise(const Rule& rule, const Edited& row) {
  Seen seen(rule, row);
  float penalty = static_cast<float>(rule.value);
  if (!rule.source_ids) seen.first = std::max<Long>(0, rule.size + (rule.starts ? rule.starts[row.source] : 0));
  for (Long i = seen.first; i < seen.count; ++i) {
    if (!seen.counts(i)) continue;
    float own = row.scores[seen.ids[i]];
    row.memory.numbers[i] = own < 0 ? own * penalty : own / penalty;
  }
  for (Long i = seen.first; i < seen.count; ++i)
    if (seen.counts(i)) row.scores[seen.ids[i]] = row.memory.numbers[i];
}

// Forbid every token that followed, somewhere in what was seen, the last size - 1 tokens of the row.
inline void forbid_followers(const Rule& rule, const Edited& row) {
  Seen seen(rule, row);
  Long known = rule.size - 1;
  if (known < 0 || known > row.length) return;
  const Long* last = row.ids + row.length - known;
  for (Long i = known; i < seen.count; ++i) {
    if (!seen.counts(i)) continue;
    Long same = 0;
    while (same < known && seen.ids[i - known + same] == last[same] && seen.counts(i - known + same)) ++same;
    float& score = row.scores[seen.ids[i]];
    if (same == known && !std::isnan(score)) score = kMinusInfinity;
  }
}

inline void set_tokens(const Rule& rule, const Edited& row, float score) {
  for (Long i = 0; i < rule.count; ++i)
    if (in_vocabulary(rule.tokens[i], row)) row.scores[rule.tokens[i]] = score;
}

inline void remove_invalid(const Edited& row) {
  constexpr float most = std::numeric_limits<float>::max();
  for (Long i = 0; i < row.vocab; ++i) {
    float x = row.scores[i];
    row.scores[i] = std::isnan(x) ? 0.0f : std::min(std::max(x, -most), most);
  }
}

// Raise tokens by their absolute score times value ^ (tokens past the start) - 1; what is forbidden stays forbidden.
inline void raise_late(const Rule& rule, const Edited& row) {
  constexpr double most = 1e30;  // float32 ends at 3.4e38
  double past = static_cast<double>(row.length - (rule.first - 1));
  float growth = static_cast<float>(std::min(std::pow(rule.value, past), most) - 1.0);
  for (Long i = 0; i < rule.count; ++i) {
    if (!in_vocabulary(rule.tokens[i], row)) continue;
    float& score = row.scores[rule.tokens[i]];
    if (std::isfinite(score)) score += std::fabs(score) * growth;
  }
}

// Probabilities of a row's scores. Returns the log of their sum before; if that is not finite, there are none.
inline float softmax(const Edited& row, float* out) {
  float total = log_sum_exp(row.scores, row.vocab);
  if (!std::isfinite(total)) return total;
  for (Long i = 0; i < row.vocab; i += kWidth) {
    Chosen some = first_of(row.vocab - i);
    store_chosen(out + i, exp_negative(load_chosen(row.scores + i, some, kMinusInfinity) - total), some);
  }
  return total;
}

// The k-th best score, or the worst if there are fewer.
inline float kth_best(const Edited& row, Long k) {
  k = std::min(k, row.vocab);
  float* numbers = row.memory.numbers;
  if (k <= kBlock) {
    top_k(row.scores, row.vocab, k, numbers, row.memory.places);
  } else {
    std::copy_n(row.scores, row.vocab, numbers);
    std::nth_element(numbers, numbers + k - 1, numbers + row.vocab, is_better);
  }
  return numbers[k - 1];
}

inline void keep_top_k(const Rule& rule, const Edited& row) {
  float least = kth_best(row, std::max(rule.size, rule.keep));
  for (Long i = 0; i < row.vocab; ++i)
    if (row.scores[i] < least) row.scores[i] = static_cast<float>(rule.fill);
}

// Keep tokens of at least `value` times the probability of the best.
inline void keep_min_p(const Rule& rule, const Edited& row) {
  float* probabilities = row.memory.numbers;
  if (!std::isfinite(softmax(row, probabilities))) return;
  float least = static_cast<float>(rule.value) * *std::max_element(probabilities, probabilities + row.vocab);
  for (Long i = 0; i < row.vocab; ++i)
    if (probabilities[i] < least) row.scores[i] = static_cast<float>(rule.fill);
}

inline float entropy_of(const Edited& row, const float* probabilities, float total) {
  double entropy = 0;
  for (Long i = 0; i < row.vocab; ++i)
    if (row.scores[i] > kMinusInfinity) entropy += static_cast<double>(total - row.scores[i]) * probabilities[i];
  return static_cast<float>(entropy);
}

// Keep tokens above a probability; with kEta, above one that falls as the entropy grows.
inline void cut_off(const Rule& rule, const Edited& row) {
  float* probabilities = row.memory.numbers;
  float best = kth_best(row, rule.keep), least = static_cast<float>(rule.value);
  float total = softmax(row, probabilities);
  if (!std::isfinite(total)) return;
  if (rule.kind == kEta) {
    float relative = static_cast<float>(std::sqrt(rule.value)) * std::exp(-entropy_of(row, probabilities, total));
    least = std::min(relative, least);
  }
  for (Long i = 0; i < row.vocab; ++i)
    if (probabilities[i] < least && row.scores[i] < best) row.scores[i] = static_cast<float>(rule.fill);
}

// log_softmax; a row whose tokens are all forbidden stays so.
inline void normalise(const Edited& row) {
  float total = log_sum_exp(row.scores, row.vocab);
  for (Long i = 0; i < row.vocab; ++i)
    if (row.scores[i] != kMinusInfinity) row.scores[i] -= total;
}

inline void apply_rule(const Rule& rule, const Edited& row) {
  if (row.length < rule.first || row.length >= rule.last) return;
  switch (rule.kind) {
    case kBias: return add_biases(rule, row);
    case kPenalty: return penalise(rule, row);
    case kNoRepeat: return forbid_followers(rule, row);
    case kForbid: return set_tokens(rule, row, kMinusInfinity);
    case kForce:
      std::fill_n(row.scores, row.vocab, kMinusInfinity);
      return set_tokens(rule, row, 0.0f);
    case kRemoveInvalid: return remove_invalid(row);
    case kDecay: return raise_late(rule, row);
    case kTemperature:
      for (Long i = 0; i < row.vocab; ++i) row.scores[i] /= static_cast<float>(rule.value);
      return;
    case kTopK: return keep_top_k(rule, row);
    case kMinP: return keep_min_p(rule, row);
    case kEpsilon:
    case kEta: return cut_off(rule, row);
    case kNormalise: return normalise(row);
  }
}

// Edit the scores of one row by `count` rules, in their order.
//
// ids: the row's tokens, `length` of them. source: the row's source among those of the rules.
inline void process_row(const Rule* rules, Long count, const Long* ids, Long length, float* scores, Long vocab,
                        Long source, RuleMemory memory) {
  Edited row{ids, length, scores, vocab, source, memory};
  for (Long i = 0; i < count; ++i) apply_rule(rules[i], row);
}

}  // namespace
