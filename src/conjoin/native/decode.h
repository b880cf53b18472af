// Decoding of several requests at once: a pass over the stack, selection of tokens, and again, without returning.
//
// Requests have their own prompts, lengths, numbers of hypotheses and rules, and a request's tokens do not depend on the
// others. The loop returns when a request is done, so that others may join.

#pragma once

#include "beams.h"
#include "pass.h"
#include "rules.h"

namespace {

enum Mode : Long { kGreedy, kBeams, kCaller };  // kCaller: the caller picks tokens by the scores
enum State : Long { kRunning, kDone, kNoTokenLeft, kScoresAreNoNumbers };

struct Request {  // torch/cpu/native/decode.py has the same fields
  Source source;  // its cache: tables, first slot, keys; the loop sets the rest
  Long mode, state;
  Long rows;                   // hypotheses
  Long prompt, length, limit;  // tokens: of the prompt, so far, and at most
  Long past;                   // positions in the cache
  Long* ids;                   // [rows, limit]; of a beam search, the prompt
  Long* slots;                 // [rows], scratch memory of the loop
  const Long* eos;
  Long eos_count;
  const Rule* rules;
  Long rule_count, rule_source;  // rule_source: the source's number among those of the rules
  const BeamRules* beam_rules;
  Beams* beams;
  float* scores;  // kCaller: [rows, vocab], the scores after the rules
};

struct DecodeCall {
  const StackSpec* stack;
  Request* const* requests;
  double* seconds;  // [kPhases], or null
  const std::atomic<Long>* interrupt;  // nonzero: return after this step; null: never
  Long count, most_steps, until_all, threads;  // until_all: go on until no request runs
};

// Copies of positions first .. last - 1 of one hypothesis over another of the same request.
struct RowCopy {
  const Request* request;
  Long from, to, first, last;
};

template <class T>
class Decoding {
 public:
  Decoding(const DecodeCall& decode, Arena& arena) : d(decode), s(*decode.stack), vocab(s.head.vocab.m) {
    Long tokens = 0, rows = 0, few = 0, copies = 0, candidates = 0, places = 0, seen = vocab;
    for (Long i = 0; i < d.count; ++i) {
      const Request& r = *d.requests[i];
      Long fresh = r.length - r.past;
      tokens += std::max(r.rows, fresh), rows += r.rows, places += std::max(r.rows, fresh);
      copies += r.rows, seen = std::max(seen, r.limit);
      for (Long rule = 0; rule < r.rule_count; ++rule) seen = std::max(seen, r.rules[rule].source_length);
      if (r.mode != kBeams) continue;
      if (!r.past && r.state == kRunning) begin_beams(*r.beam_rules, *r.beams, r.ids);
      few = std::max(few, std::min(r.beam_rules->count(vocab), vocab)), candidates = std::max(candidates, r.beam_rules->count(vocab));
    }
    pass = new (arena.take<Pass<T>>(1)) Pass<T>(s, arena, tokens);
    sources = arena.take<Source>(d.count), running = arena.take<Request*>(d.count);
    place_rows = arena.take<Long>(s.embedding.padding_id >= 0 ? places : 0);
    logits = arena.take<float>(rows * vocab);
    row_requests = arena.take<Long>(rows), first_rows = arena.take<Long>(d.count);
    threads = std::max<Long>(1, d.threads);
    partial = arena.take<Long>(threads * rows), total_rows_most = rows;
    memory = arena.take<RuleMemory>(threads);
    bool has_rules = false;
    for (Long i = 0; i < d.count; ++i) has_rules = has_rules || d.requests[i]->rule_count;
    for (Long i = 0; i < threads; ++i)
      memory[i] = {arena.take<float>(has_rules ? seen : 0), arena.take<Long>(has_rules ? seen : 0)};
    copies_ = arena.take<RowCopy>(copies);
    width = few;
    best_values = arena.take<float>(rows * few), best_tokens = arena.take<Long>(rows * few);
    merged = {arena.take<float>(candidates), arena.take<Long>(candidates), arena.take<Long>(candidates)};
    Long most_rows = 1;
    for (Long i = 0; i < d.count; ++i) most_rows = std::max(most_rows, d.requests[i]->rows);
    for (Long** each : {&parents, &chosen, &words, &taken}) *each = arena.take<Long>(most_rows);
  }

  // Steps until a request is done (or all are), or `most_steps`; returns their number.
  Long run() {
    Long steps = 0;
    bool goes_on = begin();
    if (!goes_on) return 0;
    Barrier barrier;
    parallel(static_cast<int>(threads), [&](int id, int count) {
      Clock clock(id == 0 ? d.seconds : nullptr);
      Team team{id, count, barrier, clock};
      while (goes_on) {
        pass->run(team, [&](Long first, Long last) { look(team, first, last); });
        select(team);
        team.done(kSelection);
        if (id == 0) {
          advance(count);
          goes_on = ++steps < d.most_steps && !stops && !interrupted() && begin();
        }
        team.done(kSelection);
        copy_rows(team);
      }
    });
    return steps;
  }

 private:
  const DecodeCall& d;
  const StackSpec& s;
  Long vocab, threads = 1, width = 0, total_rows_most = 0;
  Pass<T>* pass;
  PassCall call{};
  Source* sources;
  Request** running;  // in the order of sources
  Long running_count = 0, row_count = 0, copy_count = 0;
  Long *row_requests, *first_rows, *place_rows, *partial;
  float* logits;
  RuleMemory* memory;
  RowCopy* copies_;
  float* best_values;
  Long* best_tokens;
  Candidates merged;
  Long *parents, *chosen, *words, *taken;
  bool stops = false;

  static Long* ids_of(const Request& r) { return r.mode == kBeams ? r.beams->ids : r.ids; }

  // Set the sources of the next pass: the new tokens of every request that runs. False if none does.
  bool begin() {
    running_count = row_count = 0;
    Long places = 0;
    for (Long i = 0; i < d.count; ++i) {
      Request& r = *d.requests[i];
      if (r.state != kRunning) continue;
      Source& source = sources[running_count] = r.source;
      source.past = r.past, source.length = r.length - r.past;
      source.rows = r.past ? r.rows : 1;  // the hypotheses begin with the same prompt, which is read once
      source.ids = ids_of(r) + r.past, source.ids_row = r.limit;
      source.slots = r.slots;
      if (!r.past)
        for (Long row = 0; row < r.rows; ++row) r.slots[row] = r.source.first_slot + row;
      source.places = s.embedding.padding_id < 0 ? nullptr : place_rows + places;
      if (s.embedding.padding_id >= 0)
        for (Long row = 0; row < source.rows; ++row)
          for (Long time = 0; time < source.length; ++time) place_rows[places++] = place_of(source, row, time);
      first_rows[running_count] = row_count;
      for (Long row = 0; row < source.rows; ++row) row_requests[row_count++] = running_count;
      running[running_count++] = &r;
    }
    call.stack = &s, call.sources = sources, call.count = running_count, call.logits = logits, call.seconds = d.seconds;
    if (running_count) pass->begin(call);
    return running_count > 0;
  }

  // Row of the position table, where ids of padding are not counted.
  Long place_of(const Source& source, Long row, Long time) const {
    const Long* ids = source.ids - source.past + row * source.ids_row;
    Long at = source.past + time, counted = 0, padding = s.embedding.padding_id;
    for (Long i = 0; i <= at; ++i) counted += ids[i] != padding;
    return s.embedding.padding_row + (ids[at] == padding ? 0 : counted);
  }

  bool interrupted() const { return d.interrupt && d.interrupt->load(std::memory_order_relaxed); }

  static bool is_plain(const Request& r) { return r.mode == kGreedy && !r.rule_count; }

  // The best of a thread's share of the vocabulary, for rows that nothing edits.
  void look(const Team& team, Long first, Long last) {
    for (Long row = 0; row < row_count; ++row)
      if (is_plain(*running[row_requests[row]]))
        partial[team.id * total_rows_most + row] = first < last ? first + argmax(logits + row * vocab + first, last - first) : -1;
  }

  // Edit scores, and find each row's best tokens; rows are divided among the threads.
  void select(const Team& team) {
    for (Long row = team.id; row < row_count; row += team.count) {
      Request& r = *running[row_requests[row]];
      if (is_plain(r)) continue;
      Long own = row - first_rows[row_requests[row]];
      float* scores = logits + row * vocab;
      if (r.mode == kBeams && r.rule_count) log_softmax(scores, vocab);
      process_row(r.rules, r.rule_count, ids_of(r) + own * r.limit, r.length, scores, vocab, r.rule_source, memory[team.id]);
      if (r.mode == kGreedy)
        partial[row] = argmax(scores, vocab);
      else if (r.mode == kBeams)
        find_row_candidates(*r.beam_rules, scores, vocab, !r.rule_count, best_values + row * width, best_tokens + row * width);
      else
        std::memcpy(r.scores + own * vocab, scores, vocab * sizeof(float));
    }
  }

  // Append what was selected, end what is done, and plan the copies of hypotheses.
  void advance(int team_size) {
    copy_count = 0;
    for (Long i = 0; i < running_count; ++i) {
      Request& r = *running[i];
      bool first = !r.past;
      r.past = r.length;
      if (r.mode == kGreedy) {
        greedy(r, first_rows[i], team_size);
      } else if (r.mode == kBeams) {
        beams(r, first_rows[i], first);
      } else {
        if (first) {
          expand(r);
          for (Long row = 1; row < r.rows; ++row) std::copy_n(r.scores, vocab, r.scores + row * vocab);
        }
        stops = true;
      }
      if (r.state > kDone || (r.state != kRunning && !d.until_all)) stops = true;
    }
  }

  void greedy(Request& r, Long row, int team_size) {
    Long token = partial[row];
    const float* scores = logits + row * vocab;
    if (is_plain(r)) {
      for (int thread = 1; thread < team_size; ++thread) {
        Long other = partial[thread * total_rows_most + row];
        if (other >= 0 && (token < 0 || is_better(scores[other], scores[token]))) token = other;
      }
    }
    if (!(scores[token] > kForbidden)) {
      r.state = std::isnan(scores[token]) ? kScoresAreNoNumbers : kNoTokenLeft;
      return;
    }
    r.ids[r.length++] = token;
    if (r.length >= r.limit || std::find(r.eos, r.eos + r.eos_count, token) != r.eos + r.eos_count) r.state = kDone;
  }

  void beams(Request& r, Long row, bool first) {
    const BeamRules& rules = *r.beam_rules;
    Beams& state = *r.beams;
    // Rows of candidates are `width` apart, of which this search has its own number.
    Long few = std::min(rules.count(vocab), vocab), rows = first ? 1 : r.rows;
    for (Long beam = 1; beam < rows && few < width; ++beam) {
      std::copy_n(best_values + (row + beam) * width, few, best_values + row * width + beam * few);
      std::copy_n(best_tokens + (row + beam) * width, few, best_tokens + row * width + beam * few);
    }
    merge_candidates(rules, state, best_values + row * width, best_tokens + row * width, rows, vocab, merged);
    DeadEnd end = dead_end(state, merged);
    if (end != DeadEnd::kNone) {
      r.state = end == DeadEnd::kNotNumbers ? kScoresAreNoNumbers : kNoTokenLeft;
      return;
    }
    advance_beams(rules, state, merged, rules.count(vocab), nullptr, nullptr, 0, parents, chosen, words);
    r.length = state.length;
    if (*state.done || r.length >= r.limit) {
      r.state = kDone;
    } else if (first) {
      expand(r);
    } else {
      reorder(r);
    }
  }

  // All hypotheses continue the first one, which read the prompt.
  void expand(Request& r) {
    for (Long row = 1; row < r.rows; ++row) copies_[copy_count++] = {&r, r.slots[0], r.slots[row], 0, r.past};
  }

  // Hypotheses keep the slot of the one that they continue; further ones that continue the same get a copy, of what it
  // does not share with the hypothesis that had the slot.
  void reorder(Request& r) {
    const Long* before = r.beams->spare_ids;  // the hypotheses that the slots hold
    Long none = -1;
    std::fill_n(taken, r.rows, none);
    for (Long row = 0; row < r.rows; ++row)
      if (taken[parents[row]] < 0) taken[parents[row]] = row;
    Long free = 0;
    for (Long row = 0; row < r.rows; ++row) words[row] = r.slots[parents[row]];
    for (Long row = 0; row < r.rows; ++row) {
      if (taken[parents[row]] == row) continue;
      while (taken[free] >= 0) ++free;
      const Long *own = before + free * r.limit, *parent = before + parents[row] * r.limit;
      Long same = std::mismatch(own, own + r.past, parent).first - own;
      if (same < r.past) copies_[copy_count++] = {&r, r.slots[parents[row]], r.slots[free], same, r.past};
      words[row] = r.slots[free];
      ++free;
    }
    std::copy_n(words, r.rows, r.slots);
  }

  void copy_rows(const Team& team) {
    for (Long task = team.id; task < copy_count * s.count; task += team.count) {
      const RowCopy& copy = copies_[task / s.count];
      const Source& source = copy.request->source;
      Long layer = task % s.count, heads = s.layers[layer].self.kv_heads;
      for (const CacheTensor* tensor : {source.self_k + layer, source.self_v + layer}) {
        for (Long head = 0; head < heads; ++head) {
          T* data = static_cast<T*>(tensor->data) + head * tensor->head + copy.first * tensor->time;
          std::memcpy(data + copy.to * tensor->row, data + copy.from * tensor->row,
                      (copy.last - copy.first) * tensor->time * sizeof(T));
        }
      }
    }
  }
};

template <class T>
Long run_decode(const DecodeCall& call) {
  return Decoding<T>(call, Arena::own()).run();
}

}  // namespace
