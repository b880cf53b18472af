// One pass over a stack: embedding, blocks, final norm and, if asked for, logits, for the new tokens of several sources.
//
// Each source has its own number of rows (hypotheses), positions in the cache and keys, so that sources may join and
// leave between two passes. All threads go through the layers together, and each phase divides its outputs among them.
// Values between phases are float32; inputs of a linear layer are converted to the dtype of its weights, and the cache
// has a dtype of its own. The operations on a token do not depend on the other tokens of the pass.

#pragma once

#include <chrono>
#include <vector>

#include "attention.h"
#include "stack.h"
#include "threads.h"

namespace {

struct CacheTensor {  // keys or values of one layer: [rows, kv_heads, room, size], or int8 rows with their scale
  void* data;
  Long row, head, time;
};

// The hypotheses of one source, which have the same number of tokens.
struct Source {
  const CacheTensor *self_k, *self_v, *cross_k, *cross_v;  // one per layer
  const uint8_t* mask;  // [keys], mask_key apart: nonzero where a source's key may be read; null: everywhere
  const Long* slots;    // [rows]: row of each hypothesis in self_k and self_v; null: first_slot and those behind it
  const Long* ids;      // [rows, length], rows ids_row apart; null: `x` holds embedded tokens
  const Long* types;    // [length] token types; null: type 0
  const Long* places;   // [rows, length] positions of the new tokens, contiguous; null: past, past + 1 ...; the length of
                        // the source is added where they continue it
  Long first_slot, cross_row, ids_row, keys, mask_key, rows, past, length;
};

enum Phase { kProducts, kAttention, kOther, kHead, kSelection, kWaiting, kPhases };

struct PassCall {
  const StackSpec* stack;
  const Source* sources;
  float* x;         // [tokens, hidden] embedded tokens, where sources have no ids; null: none
  float* hidden;    // [tokens, hidden], or [tokens, states * hidden]: the output; null: not wanted
  float* logits;    // [tokens, vocab], or one row per hypothesis, for its last token; null: not wanted
  double* seconds;  // [kPhases], added to by one thread; null: not measured
  Long count, every_token, threads;
};

// Memory of a calling thread that is kept between passes, without initialisation.
class Arena {
 public:
  template <class T>
  T* take(Long count) {
    size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    if (blocks_.empty() || used_ + bytes > size_) {  // what was taken before stays where it is until `reset`
      size_ = std::max(bytes, 2 * size_);
      blocks_.emplace_back(new char[size_ + 64]);
      used_ = 0;
    }
    char* start = blocks_.back().get();
    start += (64 - reinterpret_cast<uintptr_t>(start) % 64) % 64;
    T* result = reinterpret_cast<T*>(start + used_);
    used_ += bytes;
    return result;
  }

  void reset() {
    if (blocks_.size() > 1) blocks_.erase(blocks_.begin(), blocks_.end() - 1);
    used_ = 0;
  }

  // The arena of this thread; one that grew large is given back.
  static Arena& own() {
    static thread_local Arena arena;
    if (arena.size_ > kMost) arena = Arena{};
    arena.reset();
    return arena;
  }

 private:
  static constexpr size_t kMost = size_t{256} << 20;
  std::vector<std::unique_ptr<char[]>> blocks_;
  size_t size_ = 0, used_ = 0;
};

// Measures the phases of a pass on one thread.
class Clock {
 public:
  Clock(double* seconds) : seconds_(seconds) {
    if (seconds_) last_ = now();
  }
  void lap(Phase phase) {
    if (!seconds_) return;
    double time = now();
    seconds_[phase] += time - last_;
    last_ = time;
  }

 private:
  static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  double* seconds_;
  double last_ = 0;
};

struct Team {
  int id, count;
  Barrier& barrier;
  Clock& clock;
  void wait() const {
    barrier.wait(count);
    clock.lap(kWaiting);
  }
  void done(Phase phase) const {
    clock.lap(phase);
    wait();
  }
  void share(Long outputs, Long* first, Long* last) const { ::share(outputs, id, count, first, last); }
};

// Inputs of a linear layer in the dtype of its weights: float32, bf16, or int8 with a scale per row.
struct Input {
  const float* wide = nullptr;
  bf16* half = nullptr;
  uint8_t* bytes = nullptr;
  float* scales = nullptr;
};

struct Token {
  Long source, row, time, place;
};

// Consecutive tokens of one row (self-attention) or of one source (cross-attention) that attend together.
struct Group {
  Long source, row, time, first, count;
};

template <class T>
class Pass {
 public:
  // Room for passes of up to `most` tokens and `most_heads` rows of logits' inputs.
  Pass(const StackSpec& stack, Arena& arena, Long most) : s(stack) {
    Long heads = 0, inner = 0, source = 0, widest = std::max({s.hidden, s.embedding.words.size, s.embedding.positions.size});
    for (Long i = 0; i < s.count; ++i) {
      const LayerSpec& layer = s.layers[i];
      for (const AttentionSpec* a : {&layer.self, &layer.cross})
        if (a->q.w) heads = std::max(heads, a->heads * a->size), group = std::max(group, a->heads / a->kv_heads), size = std::max(size, a->size);
      inner = std::max(inner, layer.up.m);
      source = std::max({source, layer.self.k.n, layer.cross.k.n});  // states of a source may be wider than all else
    }
    for (const LinearSpec* each : {&s.head.projection, &s.head.dense, &s.head.vocab}) widest = std::max({widest, each->n});
    for (float** buffer : {&q, &k, &v, &mixed}) *buffer = arena.take<float>(most * heads);
    for (float** buffer : {&x, &normed, &out, &start}) *buffer = arena.take<float>(most * widest);
    middle = arena.take<float>(most * inner), gated = arena.take<float>(most * inner);
    converted_q = arena.take<typename Rows<T>::Handed>(most * heads);
    widest = std::max({widest, heads, inner, source});
    input.half = arena.take<bf16>(most * widest);
    input.bytes = arena.take<uint8_t>(most * widest);
    input.scales = arena.take<float>(most);
    tokens = arena.take<Token>(most);
    self_groups = arena.take<Group>(most), cross_groups = arena.take<Group>(most);
    last_tokens = arena.take<Long>(most);
  }

  // Set what the next pass reads; by one thread, while the others wait. `of_sources`: tokens of sources, for their keys.
  void begin(const PassCall& next, bool of_sources = false) {
    call = &next, count = total_rows = self_count = cross_count = 0;
    for (Long i = 0; i < call->count; ++i) {
      const Source& source = call->sources[i];
      Long first = count, together = std::max<Long>(1, kQueries / group);
      for (Long row = 0; row < source.rows; ++row) {
        for (Long time = 0; time < source.length; ++time) {
          Long place = source.places ? source.places[row * source.length + time] : source.past + time;
          bool is_padding = s.embedding.padding_id >= 0 && place == s.embedding.padding_row;
          if (s.continues && !of_sources && !is_padding) place += source.keys;
          tokens[count++] = {i, row, time, place};
        }
        for (Long time = 0; time < source.length; time += together)
          self_groups[self_count++] = {i, row, time, count - source.length + time, std::min(together, source.length - time)};
        if (call->logits) last_tokens[total_rows] = count - 1;  // rows without a token are more than there is room for
        ++total_rows;
      }
      for (Long at = first; at < count; at += together) cross_groups[cross_count++] = {i, 0, 0, at, std::min(together, count - at)};
    }
  }

  void run(const Team& team) {
    run(team, [](Long, Long) {});
  }

  // By all threads of a team, which have seen `begin`. Each calls look(first, last) as soon as it has written these
  // columns of the logits.
  template <class Look>
  void run(const Team& team, Look look) {
    Scratch<T> scratch(std::max(kQueries, group), size);
    embed(team);
    for (Long i = 0; i < s.count; ++i) {
      keep_state(team, i);
      block(team, s.layers[i], i, scratch);
    }
    keep_state(team, s.count);
    for (Long r = team.id; r < count; r += team.count) {
      normalise(s.final_norm, x + r * s.hidden, x + r * s.hidden, s.hidden);
      if (call->hidden && !s.state_count)
        std::memcpy(call->hidden + r * s.hidden, x + r * s.hidden, s.hidden * sizeof(float));
    }
    team.done(kOther);
    if (call->logits) head(team, look);
  }

  // Keys and values of the source in every layer, from the encoder's states [tokens, width of the source].
  void read_sources(const Team& team, const float* states, Long width) {
    for (Long i = 0; i < s.count; ++i) {
      const LayerSpec& layer = s.layers[i];
      const AttentionSpec& a = layer.source ? layer.self : layer.cross;
      bool is_prefix = layer.source == 2;
      for (Long r = team.id; is_prefix && r < count; r += team.count)
        normalise(layer.self_norms.pre, states + r * width + layer.state * s.hidden, normed + r * s.hidden, s.hidden);
      if (team.id == 0) input.wide = is_prefix ? normed : states;
      team.done(kOther);
      convert(team, is_prefix ? s.hidden : width, a.k.kind, count);
      project(team, a.k, k, count);
      project(team, a.v, v, count);
      team.done(kProducts);
      if (a.norms_over == 1) norm_keys(team, a);
      write_to_cache(team, a, a.k_norm, is_prefix ? a.rotary : -1, k, i, true, false);
      write_to_cache(team, a, NormSpec{}, -1, v, i, true, true);
      team.done(kOther);
    }
  }

 private:
  static constexpr Long kQueries = 64;  // queries of one head that are computed together

  const StackSpec& s;
  const PassCall* call = nullptr;
  Long count = 0, total_rows = 0, self_count = 0, cross_count = 0, group = 1, size = 0;
  float *q, *k, *v, *mixed, *x, *normed, *out, *start, *middle, *gated;
  typename Rows<T>::Handed* converted_q;
  Token* tokens;
  Group *self_groups, *cross_groups;
  Long* last_tokens;
  Input input;

  const Source& source_of(Long token) const { return call->sources[tokens[token].source]; }
  static Long slot(const Source& source, Long row) { return source.slots ? source.slots[row] : source.first_slot + row; }

  // Copy the input of layer `index` to the output, if it is one of the states there; tokens are divided as by `embed`.
  void keep_state(const Team& team, Long index) {
    if (!call->hidden) return;
    for (Long j = 0; j < s.state_count; ++j)
      for (Long r = team.id; s.states[j] == index && r < count; r += team.count)
        std::memcpy(call->hidden + (r * s.state_count + j) * s.hidden, x + r * s.hidden, s.hidden * sizeof(float));
  }

  void embed(const Team& team) {
    const EmbeddingSpec& e = s.embedding;
    bool early = e.projects == 1, late = e.projects == 2;
    float* words = e.projects ? out : x;
    Long inner = early ? e.projection.m : e.words.size;
    if (!call->sources[0].ids) {
      for (Long r = team.id; r < count; r += team.count)
        std::memcpy(x + r * s.hidden, call->x + r * s.hidden, s.hidden * sizeof(float));
      return team.done(kOther);
    }
    for (Long r = team.id; r < count; r += team.count) {
      const Source& source = source_of(r);
      float* to = words + r * e.words.size;
      Long id = source.ids[tokens[r].row * source.ids_row + tokens[r].time];
      if (e.replacement && id == e.replaced)
        std::memcpy(to, e.replacement, e.words.size * sizeof(float));
      else
        read_row(e.words, id, static_cast<float>(e.scale), false, to);
      if (e.types.rows) read_row(e.types, source.types ? source.types[tokens[r].time] : 0, 1.0f, true, to);
    }
    if (early) project_words(team, words, x);
    float* sum = late ? words : x;
    for (Long r = team.id; r < count; r += team.count) {
      if (e.positions.rows) read_row(e.positions, tokens[r].place + e.first_position, 1.0f, true, sum + r * inner);
      normalise(e.norm, sum + r * inner, sum + r * inner, inner);
    }
    if (late) project_words(team, words, x);
    team.done(kOther);
  }

  void project_words(const Team& team, const float* from, float* to) {
    team.done(kOther);
    if (team.id == 0) input.wide = from;
    team.wait();
    convert(team, s.embedding.projection.n, s.embedding.projection.kind, count);
    project(team, s.embedding.projection, to, count);
    team.done(kProducts);
  }

  void block(const Team& team, const LayerSpec& layer, Long index, Scratch<T>& scratch) {
    if (layer.parallel) {
      for (Long r = team.id; r < count; r += team.count)
        std::memcpy(start + r * s.hidden, x + r * s.hidden, s.hidden * sizeof(float));
      team.wait();
    }
    attend(team, layer, layer.self, layer.self_norms, index, false, scratch);
    if (layer.has_cross) attend(team, layer, layer.cross, layer.cross_norms, index, true, scratch);
    mlp(team, layer);
  }

  // Set `input` to the input of a branch: x (in a parallel block, the block's input) after the branch's first norm.
  void pre_norm(const Team& team, const LayerSpec& layer, const NormSpec& norm, Long kind) {
    const float* from = layer.parallel ? start : x;
    if (norm.kind == 0) {
      if (team.id == 0) input.wide = from;
    } else {
      for (Long r = team.id; r < count; r += team.count) normalise(norm, from + r * s.hidden, normed + r * s.hidden, s.hidden);
      if (team.id == 0) input.wide = normed;
    }
    team.done(kOther);
    convert(team, s.hidden, kind, count);
  }

  // Add a branch's output to x, and apply the norms of the output and of the sum.
  void add_residual(const Team& team, const LayerSpec& layer, const BranchSpec& norms, const float* gate) {
    team.done(kProducts);
    float factor = static_cast<float>(layer.residual_scale) * (gate ? *gate : 1.0f);
    for (Long r = team.id; r < count; r += team.count) {
      float *sum = x + r * s.hidden, *y = out + r * s.hidden;
      normalise(norms.out, y, y, s.hidden);
      for (Long i = 0; i < s.hidden; ++i) sum[i] += y[i] * factor;
      normalise(norms.post, sum, sum, s.hidden);
    }
    team.done(kOther);
  }

  // Convert `rows` rows of n inputs to the dtype of weights.
  void convert(const Team& team, Long n, Long kind, Long rows) {
    if (kind == 0) return;
    for (Long r = team.id; r < rows; r += team.count) {
      const float* from = input.wide + r * n;
      if (kind == 1) {
        bf16* to = input.half + r * n;
        for (Long i = 0; i < n; ++i) to[i] = narrow(from[i]);
      }
      if (kind == 2) input.scales[r] = quantise(from, n, input.bytes + r * n);
    }
    team.done(kProducts);
  }

  // Compute this thread's share of a linear layer's outputs for `rows` rows; call `wait` before reading them.
  void project(const Team& team, const LinearSpec& layer, float* y, Long rows) {
    Long first, last;
    team.share(layer.m, &first, &last);
    if (first >= last) return;
    auto put = [&](Long r, Long o, float sum) { y[r * layer.m + o] = layer.bias ? sum + layer.bias[o] : sum; };
    if (layer.kind == 0)
      dots<Wide<float>>(input.wide, rows, layer.n, static_cast<const float*>(layer.w), layer.n, layer.n, first, last, put);
    else if (layer.kind == 1)
      dots<Brain>(input.half, rows, layer.n, static_cast<const bf16*>(layer.w), layer.n, layer.n, first, last, put);
    else
      dots<Bytes>(input.bytes, rows, layer.n, static_cast<const int8_t*>(layer.w), layer.n, layer.n, first, last,
                  [&](Long r, Long o, int32_t sum) {
                    put(r, o, static_cast<float>(sum - Bytes::zero * layer.sums[o]) * (input.scales[r] * layer.scale[o]));
                  });
  }

  void mlp(const Team& team, const LayerSpec& layer) {
    pre_norm(team, layer, layer.mlp_norms.pre, layer.up.kind);
    project(team, layer.up, middle, count);
    Long first, last, inner = layer.up.m;
    team.share(inner, &first, &last);
    if (layer.gate.w) {
      project(team, layer.gate, gated, count);
      for (Long r = 0; first < last && r < count; ++r) {
        float *m = middle + r * inner, *g = gated + r * inner;
        activate(layer.activation, g + first, last - first);
        for (Long i = first; i < last; ++i) m[i] *= g[i];
      }
    } else {
      for (Long r = 0; first < last && r < count; ++r) activate(layer.activation, middle + r * inner + first, last - first);
    }
    team.done(kProducts);
    if (team.id == 0) input.wide = middle;
    team.wait();
    convert(team, inner, layer.down.kind, count);
    project(team, layer.down, out, count);
    add_residual(team, layer, layer.mlp_norms, nullptr);
  }

  void attend(const Team& team, const LayerSpec& layer, const AttentionSpec& a, const BranchSpec& norms, Long index,
              bool cross, Scratch<T>& scratch) {
    pre_norm(team, layer, norms.pre, a.q.kind);
    project(team, a.q, q, count);
    if (!cross) {
      project(team, a.k, k, count);
      project(team, a.v, v, count);
    }
    team.done(kProducts);
    if (a.norms_over == 1) {
      for (Long r = team.id, queries = a.heads * a.size; r < count; r += team.count)
        normalise(a.q_norm, q + r * queries, q + r * queries, queries);
      if (!cross) norm_keys(team, a);
      team.wait();
    }
    rotate_queries(team, a);
    if (!cross) {
      write_to_cache(team, a, a.k_norm, a.rotary, k, index, false, false);
      write_to_cache(team, a, NormSpec{}, -1, v, index, false, true);
    }
    team.done(kOther);
    Long groups = cross ? cross_count : self_count;
    const Group* all = cross ? cross_groups : self_groups;  // GCC 12 with UBSan miscomputes (c ? a : b)[i / j]
    for (Long task = team.id; task < groups * a.kv_heads; task += team.count) {
      const Group& some = all[task / a.kv_heads];
      auto head = attention_call(a, some, index, cross);
      if (layer.source) put_source_before(layer, call->sources[some.source], index, head);
      read_head(head, 0, task % a.kv_heads, scratch);
    }
    if (team.id == 0) input.wide = mixed;
    team.done(kAttention);
    convert(team, a.heads * a.size, a.o.kind, count);
    project(team, a.o, out, count);
    add_residual(team, layer, norms, a.gate);
  }

  Call<typename Rows<T>::Handed, T, float> attention_call(const AttentionSpec& a, const Group& some, Long index, bool cross) {
    const Source& source = call->sources[some.source];
    const CacheTensor& keys = (cross ? source.cross_k : source.self_k)[index];
    const CacheTensor& values = (cross ? source.cross_v : source.self_v)[index];
    Long row = cross ? source.cross_row : slot(source, some.row), width = a.heads * a.size;
    Call<typename Rows<T>::Handed, T, float> r{};
    r.q = converted_q + some.first * width, r.out = mixed + some.first * width;
    r.k = static_cast<const T*>(keys.data) + row * keys.row, r.v = static_cast<const T*>(values.data) + row * values.row;
    r.sources = r.beams = 1;
    r.heads = a.heads, r.kv_heads = a.kv_heads, r.length = some.count, r.size = a.size;
    r.q_head = a.size, r.q_time = width;
    r.k_head = keys.head, r.k_time = keys.time, r.v_head = values.head, r.v_time = values.time;
    r.scale = static_cast<float>(a.scale), r.softcap = static_cast<float>(a.softcap);
    if (cross) {
      r.keys = source.keys, r.mask = source.mask, r.mask_key = source.mask_key;
      return r;
    }
    r.own = source.past + some.time, r.causal = s.causal, r.window = a.window, r.ahead = a.ahead;
    r.keys = s.causal ? r.own + some.count : source.past + source.length;
    if (const BiasTable& bias = s.layers[index].bias; bias.values) {
      r.bias = bias.values, r.bias_head = bias.width, r.bias_key = 1;
      if (bias.reach) r.bias += bias.reach - r.own, r.bias_time = -1;
    }
    return r;
  }

  // Let self-attention read the source before a row's own keys.
  void put_source_before(const LayerSpec& layer, const Source& source, Long index, Call<typename Rows<T>::Handed, T, float>& r) {
    const CacheTensor &keys = source.cross_k[index], &values = source.cross_v[index];
    r.prefix_k = static_cast<const T*>(keys.data) + source.cross_row * keys.row;
    r.prefix_v = static_cast<const T*>(values.data) + source.cross_row * values.row;
    r.prefix = source.keys, r.prefix_k_head = keys.head, r.prefix_k_time = keys.time;
    r.prefix_v_head = values.head, r.prefix_v_time = values.time;
    r.mask = source.mask, r.mask_key = source.mask_key;
    r.prefix_is_apart = layer.source == 1;
    if (r.prefix_is_apart) return;
    r.own += source.keys;
    if (r.bias && layer.bias.reach) r.bias -= source.keys;
  }

  void norm_keys(const Team& team, const AttentionSpec& a) {
    for (Long r = team.id, keys = a.kv_heads * a.size; r < count; r += team.count)
      normalise(a.k_norm, k + r * keys, k + r * keys, keys);
    team.wait();
  }

  // Normalise and rotate one head of one token, in place; `index` is the head's number.
  void rotate(const AttentionSpec& a, NormSpec norm, Long rotary, float* head, Long index, Long token) {
    if (a.norms_over == 2 && norm.weight) norm.weight += index * a.size;
    if (a.norms_over == 2 && norm.bias) norm.bias += index * a.size;
    if (norm.kind && a.norms_over != 1) normalise(norm, head, head, a.size);
    if (rotary < 0) return;
    const Angles& angles = s.angles[rotary];
    Long half = angles.width / 2;
    const float *cos = angles.cos + tokens[token].place * angles.width, *sin = angles.sin + tokens[token].place * angles.width;
    for (Long i = 0; i < half; ++i) {
      float first = head[i], second = head[half + i];
      head[i] = first * cos[i] - second * sin[i];
      head[half + i] = second * cos[half + i] + first * sin[half + i];
    }
  }

  void rotate_queries(const Team& team, const AttentionSpec& a) {
    for (Long i = team.id; i < count * a.heads; i += team.count) {
      float* head = q + i * a.size;
      rotate(a, a.q_norm, a.rotary, head, i % a.heads, i / a.heads);
      for (Long e = 0; e < a.size; ++e) ::store(converted_q + i * a.size + e, head[e]);
    }
  }

  void write_to_cache(const Team& team, const AttentionSpec& a, const NormSpec& norm, Long rotary, float* from, Long index,
                      bool cross, bool values) {
    for (Long i = team.id; i < count * a.kv_heads; i += team.count) {
      const Token& token = tokens[i / a.kv_heads];
      const Source& source = call->sources[token.source];
      const CacheTensor& cache = (cross ? values ? source.cross_v : source.cross_k : values ? source.self_v : source.self_k)[index];
      Long row = cross ? source.cross_row : slot(source, token.row);
      float* head = from + i * a.size;
      rotate(a, norm, rotary, head, i % a.kv_heads, i / a.kv_heads);
      T* to = static_cast<T*>(cache.data) + row * cache.row + i % a.kv_heads * cache.head +
              (source.past + token.time) * cache.time;
      Rows<T>::write(to, head, a.size);
    }
  }

  template <class Look>
  void head(const Team& team, Look look) {
    const HeadSpec& h = s.head;
    Long rows = call->every_token ? count : total_rows, width = s.hidden;
    float* states = normed;
    for (Long r = team.id; r < rows; r += team.count)
      std::memcpy(states + r * width, x + (call->every_token ? r : last_tokens[r]) * width, width * sizeof(float));
    auto apply = [&](const LinearSpec& layer, float* to) {
      if (team.id == 0) input.wide = states;
      team.done(kHead);
      convert(team, layer.n, layer.kind, rows);
      project(team, layer, to, rows);
      team.done(kHead);
    };
    if (h.projection.w) apply(h.projection, out), states = out, width = h.projection.m;
    if (h.dense.w) {
      float* to = states == out ? start : out;
      apply(h.dense, to);
      states = to, width = h.dense.m;
      for (Long r = team.id; r < rows; r += team.count) {
        activate(h.activation, states + r * width, width);
        normalise(h.norm, states + r * width, states + r * width, width);
      }
    }
    if (h.scale != 1.0) {
      for (Long r = team.id; r < rows; r += team.count)
        for (Long i = 0; i < width; ++i) states[r * width + i] *= static_cast<float>(h.scale);
    }
    if (team.id == 0) input.wide = states;
    team.done(kHead);
    convert(team, h.vocab.n, h.vocab.kind, rows);
    project(team, h.vocab, call->logits, rows);
    Long first, last;
    team.share(h.vocab.m, &first, &last);
    if (h.softcap) {
      float cap = static_cast<float>(h.softcap);
      for (Long r = 0; r < rows; ++r)
        for (Long o = first; o < last; ++o) call->logits[r * h.vocab.m + o] = cap * tanh_exp(call->logits[r * h.vocab.m + o] / cap);
    }
    look(first, last);
    team.done(kHead);
  }
};

// Let `threads` threads call work(pass, team) for a pass over a call's sources.
template <class T, class Work>
void with_team(const PassCall& call, Work work, bool of_sources = false) {
  Long most = 0;
  for (Long i = 0; i < call.count; ++i) most += call.sources[i].rows * call.sources[i].length;
  Pass<T> pass(*call.stack, Arena::own(), most);
  pass.begin(call, of_sources);
  Barrier barrier;
  parallel(static_cast<int>(call.threads), [&](int id, int count) {
    Clock clock(id == 0 ? call.seconds : nullptr);
    work(pass, Team{id, count, barrier, clock});
  });
}

template <class T>
void run_pass(const PassCall& call) {
  with_team<T>(call, [](Pass<T>& pass, const Team& team) { pass.run(team); });
}

// Keys and values of the sources in every layer, written to their caches; x is [tokens, width].
template <class T>
void run_sources(const PassCall& call, Long width) {
  with_team<T>(call, [&](Pass<T>& pass, const Team& team) { pass.read_sources(team, call.x, width); }, true);
}

}  // namespace
