// Beam search of one source: which beams run, which hypotheses are finished, when no later step can change the result.
//
// The rules are those of torch/generation/loops/beams.py. All memory is the caller's; a step allocates none. A step is
// find_row_candidates for every row, merge_candidates, dead_end and advance_beams.

#pragma once

#include "select.h"

namespace {

constexpr float kForbidden = -5.0e8f;  // a token of this score or less is forbidden: generation/forbidden.py

// Settings of a search; torch/cpu/native/beams.py has the same fields.
struct BeamRules {
  Long beams, candidates;  // hypotheses, and continuations that a step looks at
  Long prompt, max_length;
  Long pad;
  const Long* eos;
  Long eos_count;
  double length_penalty;
  Long early_stopping;  // 0: False, 1: True, 2: "never"

  Long count(Long vocab) const { return std::min(candidates, beams * vocab); }
  bool is_eos(Long token) const { return std::find(eos, eos + eos_count, token) != eos + eos_count; }
  // What scores of hypotheses of a length are divided by.
  float divisor(Long length) const {
    double power = std::pow(static_cast<double>(length - prompt), length_penalty);
    power = std::min(power, std::numeric_limits<double>::max());
    return static_cast<float>(std::max(power, std::numeric_limits<double>::min()));
  }
};

// State of a search: N beams of at most L tokens. Origins are the rows that tokens came from, [N, L - prompt]; null if
// they are not traced.
struct Beams {
  Long length;
  Long *ids, *spare_ids;          // [N, L]; the two change places at every step
  Long *origins, *spare_origins;  // as the ids
  float* scores;                  // [N]; minus infinity: the beam does not run
  Long* finished_ids;             // [N, L], best first
  Long* finished_origins;
  float* finished_scores;    // [N]
  Long* finished_lengths;    // [N]
  uint8_t* is_finished;      // [N]
  uint8_t *improvable, *done;
};

// Continuations: scores, parent beams and tokens.
struct Candidates {
  float* values;
  Long *parents, *tokens;
};

inline bool runs(const Beams& state, Long beam) { return state.scores[beam] > kForbidden; }

// Begin with one hypothesis, in beam 0; the other beams exist, but cannot win.
inline void begin_beams(const BeamRules& rules, Beams& state, const Long* prompt) {
  Long n = rules.beams, longest = rules.max_length;
  state.length = rules.prompt;
  for (Long* ids : {state.ids, state.spare_ids, state.finished_ids}) {
    std::fill_n(ids, n * longest, rules.pad);
    for (Long beam = 0; beam < n; ++beam) std::copy_n(prompt, rules.prompt, ids + beam * longest);
  }
  for (Long* origins : {state.origins, state.spare_origins, state.finished_origins})
    if (origins) std::fill_n(origins, n * (longest - rules.prompt), Long{-1});
  std::fill_n(state.scores, n, kMinusInfinity);
  std::fill_n(state.finished_scores, n, kMinusInfinity);
  std::fill_n(state.finished_lengths, n, rules.prompt);
  std::fill_n(state.is_finished, n, uint8_t{0});
  state.scores[0] = 0, *state.improvable = 1, *state.done = 0;
}

// Best continuations of one row, at most count(vocab) of them, best first: log-probabilities and tokens.
//
// raw: the scores are not log-probabilities yet.
inline void find_row_candidates(const BeamRules& rules, const float* scores, Long vocab, bool raw, float* values,
                                Long* tokens) {
  Long few = std::min(rules.count(vocab), vocab);
  top_k(scores, vocab, few, values, tokens);
  if (!raw) return;
  float total = log_sum_exp(scores, vocab);
  for (Long i = 0; i < few; ++i) values[i] -= total;
}

// The best count(vocab) continuations of a source, best first; those of beams that do not run, or that are forbidden,
// come last.
//
// values, tokens: what find_row_candidates found, a row per beam; or one row, for beams whose scores are the same.
inline void merge_candidates(const BeamRules& rules, const Beams& state, const float* values, const Long* tokens,
                             Long rows, Long vocab, Candidates out) {
  Long count = rules.count(vocab), few = std::min(count, vocab);
  Best best{out.values, out.parents, count};  // parents: numbers of candidates, for now
  for (Long beam = 0; beam < rules.beams; ++beam) {
    Long row = rows == 1 ? 0 : beam;
    for (Long i = 0; i < few; ++i) {
      float value = runs(state, beam) ? values[row * few + i] + state.scores[beam] : kMinusInfinity;
      if (!best.takes(value)) break;
      best.add(value, beam * few + i);
    }
  }
  for (Long c = 0; c < count; ++c) {
    Long beam = out.parents[c] / few, row = rows == 1 ? 0 : beam;
    out.tokens[c] = tokens[row * few + out.parents[c] % few];
    out.parents[c] = beam;
  }
}

// Why a source cannot go on: no token is left and it has no result, or its scores are not numbers.
enum class DeadEnd : Long { kNone, kNoToken, kNotNumbers };

inline DeadEnd dead_end(const Beams& state, const Candidates& candidates) {
  float best = candidates.values[0];
  if (*state.done || (best > kForbidden && std::isfinite(best))) return DeadEnd::kNone;
  if (std::isnan(best) || best > 0) return DeadEnd::kNotNumbers;
  return state.is_finished[0] ? DeadEnd::kNone : DeadEnd::kNoToken;
}

// Write a row of tokens, or of origins, that continues `row`.
inline void continue_row(Long* to, const Long* row, Long length, Long next) {
  std::copy_n(row, length, to);
  to[length] = next;
}

// Add a finished hypothesis behind its equals; the worst falls out.
inline void finish_beam(const BeamRules& rules, Beams& state, float score, Long parent, Long token, Long first_row) {
  Long place = rules.beams, length = state.length, new_tokens = length - rules.prompt;
  while (place > 0 && score > state.finished_scores[place - 1]) --place;
  if (place == rules.beams) return;
  auto insert = [&](auto* all, Long width) {  // returns the row to fill
    std::copy_backward(all + place * width, all + (rules.beams - 1) * width, all + rules.beams * width);
    return all + place * width;
  };
  *insert(state.finished_scores, 1) = score;
  *insert(state.finished_lengths, 1) = length + 1;
  *insert(state.is_finished, 1) = 1;
  Long longest = rules.max_length, most = longest - rules.prompt;
  Long* ids = insert(state.finished_ids, longest);
  continue_row(ids, state.ids + parent * longest, length, token);
  std::fill(ids + length + 1, ids + longest, rules.pad);
  if (!state.origins) return;
  Long* origins = insert(state.finished_origins, most);
  continue_row(origins, state.origins + parent * most, new_tokens, first_row + parent);
  std::fill(origins + new_tokens + 1, origins + most, Long{-1});
}

// Extend, finish and drop hypotheses by `count` candidates.
//
// stops: nonzero for candidates that a stopping criterion ends; null: none. rank: the candidates that go on, N of them;
// null: the best that do not end. first_row: row of beam 0. parents, tokens, words: per beam, the row that goes on
// there, its next token, and the token that was chosen before the length limit (-1: none).
inline void advance_beams(const BeamRules& rules, Beams& state, const Candidates& candidates, Long count,
                          const uint8_t* stops, const Long* rank, Long first_row, Long* parents, Long* tokens,
                          Long* words) {
  Long n = rules.beams, longest = rules.max_length, most = longest - rules.prompt;
  bool is_last = state.length + 1 >= longest;
  auto is_possible = [&](Long c) { return candidates.values[c] > kForbidden; };
  auto ends = [&](Long c) { return (stops && stops[c]) || rules.is_eos(candidates.tokens[c]); };
  auto all_finished = [&] { return std::count(state.is_finished, state.is_finished + n, 0) == 0; };

  bool is_frozen = !*state.improvable || (rules.early_stopping == 1 && all_finished());
  for (Long c = 0; c < std::min(n, count) && !is_frozen; ++c) {
    if (!is_possible(c) || !(is_last || ends(c))) continue;
    float score = candidates.values[c] / rules.divisor(state.length + 1);
    score = std::max(score, std::numeric_limits<float>::lowest());
    finish_beam(rules, state, score, candidates.parents[c], candidates.tokens[c], first_row);
  }

  Best best{state.scores, words, n};  // words: numbers of candidates, for now
  if (rank) {
    for (Long i = 0; i < n; ++i) {
      words[i] = rank[i];
      state.scores[i] = is_possible(rank[i]) && !ends(rank[i]) ? candidates.values[rank[i]] : kMinusInfinity;
    }
  } else {
    for (Long c = 0; c < count; ++c)
      if (is_possible(c) && !ends(c)) best.add(candidates.values[c], c);
    for (Long i = best.count; i < n; ++i) words[i] = 0, state.scores[i] = kMinusInfinity;
  }
  for (Long i = 0; i < n; ++i) {
    parents[i] = candidates.parents[words[i]], tokens[i] = candidates.tokens[words[i]];
    words[i] = state.scores[i] == kMinusInfinity ? -1 : tokens[i];
    if (is_last) state.scores[i] = kMinusInfinity;
  }

  // Beams without a hypothesis continue the best one; where none runs, all stay.
  for (Long i = 0; i < n; ++i) {
    if (!runs(state, 0)) parents[i] = i, tokens[i] = rules.pad;
    else if (!runs(state, i)) parents[i] = parents[0], tokens[i] = tokens[0];
    continue_row(state.spare_ids + i * longest, state.ids + parents[i] * longest, state.length, tokens[i]);
    if (state.origins) {
      Long* row = state.origins + parents[i] * most;
      continue_row(state.spare_origins + i * most, row, state.length - rules.prompt, first_row + parents[i]);
    }
  }
  for (Long i = 0; i < n; ++i) parents[i] += first_row;
  std::swap(state.ids, state.spare_ids);
  std::swap(state.origins, state.spare_origins);
  ++state.length;

  Long furthest = rules.early_stopping == 2 && rules.length_penalty > 0 ? longest : state.length;
  float top = *std::max_element(state.scores, state.scores + n) / rules.divisor(furthest);
  float worst = *std::min_element(state.finished_scores, state.finished_scores + n);
  *state.improvable = *state.improvable && top > worst;
  *state.done = *state.done || !*state.improvable || (rules.early_stopping == 1 && all_finished());
}

}  // namespace
