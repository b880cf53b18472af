// Attention in training: products, softmax and dropout of one head at a time, in cache, and their gradients.

#pragma once

#include "softmax.h"
#include "threads.h"
#include "tiles.h"

namespace {

constexpr Long kBlockScores = 40 * 1024;  // scores of a block of queries, which stay in the L2 cache

// Heads of tokens: element (sequence, head, token, i) is at p + sequence * row + head * head_step + token * time + i.
template <class T>
struct Heads {
  T* p;
  Long row, head_step, time;

  T* at(Long sequence, Long head, Long token) const { return p + sequence * row + head * head_step + token * time; }
};

// First query and key of a sequence among the tokens, and their numbers.
struct Span {
  Long query, queries, key, keys;
};

// `heads` query heads of `size` numbers, in groups that share one of `kv_heads` key heads.
template <class T>
struct Training {
  Heads<const T> q, k, v;
  const Span* spans;
  const uint8_t* mask;  // per sequence, head and query, with strides; nonzero: may be read; null: all keys
  const float* bias;    // per head and query, with strides; null: none
  Long sequences, heads, kv_heads, size, value_size;
  Long mask_row, mask_head, mask_query, bias_head, bias_query;
  Long causal;         // no later keys
  Long window, ahead;  // a query reads only the keys k with own - k < window and k - own < ahead; window 0: all
  float scale;
  Dropout dropout;

  Long group() const { return heads / kv_heads; }

  // Query t is at position t + keys - queries of the keys.
  Reach reach(const Span& span, Long t) const {
    Long own = t + span.keys - span.queries;
    return {window ? std::max<Long>(0, own - window + 1) : 0,
            std::max<Long>(0, std::min(causal ? own + 1 : span.keys, window ? own + ahead : span.keys))};
  }
};

// Tokens [first, first + count) of a head.
template <class T>
struct Tokens {
  Heads<T> heads;
  Long sequence, head, first, count, size;

  T* operator[](Long r) const { return heads.at(sequence, head, first + r); }
};

template <class T>
void copy(const Tokens<const T>& from, float* to) {
  copy_rows(from[0], from.heads.time, from.count, from.size, to, from.size);
}

template <class T>
Panels copy_panels(const Tokens<const T>& from, float* to) {
  return copy_panels(from[0], from.heads.time, from.count, from.size, to);
}

// Copy tokens transposed, one column per token.
template <class T>
Panels transpose_panels(const Tokens<const T>& from, float* to) {
  Panels panels{to, from.size};
  for (Long at = 0; at < from.count; at += kPanel) {
    Long width = std::min(kPanel, from.count - at);
    float* panel = panels.panel(at);
    for (Long r = 0; r < width; ++r) {
      const T* p = from[at + r];
      for (Long i = 0; i < from.size; ++i) panel[i * kPanel + r] = to_float(p[i]);
    }
    for (Long i = 0; i < from.size; ++i) std::fill(panel + i * kPanel + width, panel + (i + 1) * kPanel, 0.0f);
  }
  return panels;
}

template <class T>
void write(const float* from, Long width, float scale, const Tokens<T>& to) {
  for (Long r = 0; r < to.count; ++r)
    for (Long i = 0; i < to.size; i += kWidth)
      store_chosen(to[r] + i, load(from + r * width + i) * scale, first_of(to.size - i));
}

// Queries [first, last) of a head, and the keys [begin, end) that any of them reads. A block of random numbers starts at
// `begin`, and a panel at `end`, unless that is the end of the keys.
struct Block {
  Long first, last, begin, end;

  Long rows() const { return last - first; }
};

// Width of a row of scores, with space for whole tiles after its end; not a multiple of 512, so that rows map to different
// sets of the L1 cache.
inline Long score_width(Long keys) {
  Long width = rounded_up(keys, 16) + kPanel;
  return width % 512 ? width : width + 16;
}

// Queries of a block: their scores stay in the cache, and few of those that a causal block computes are of later keys.
inline Long block_rows(Long width, bool causal) {
  Long rows = std::max<Long>(24, kBlockScores / width / 24 * 24);
  return causal ? std::min(rows, kPanel / kTileRows * kTileRows) : rows;
}

template <class T>
Block block_at(const Training<T>& c, const Span& span, Long first, Long rows) {
  Block b{first, std::min(first + rows, span.queries), 0, span.keys};
  Long begin = c.reach(span, b.first).first, end = c.reach(span, b.last - 1).last;
  b.begin = std::min(begin, span.keys) / kDraws * kDraws;
  b.end = std::min(span.keys, rounded_up(std::max(end, b.begin + 1), kPanel));
  return b;
}

// Clear the numbers after a row's end, which tiles may read.
inline void clear_after(float* row, Long end) { std::fill(row + end, row + end + kPanel, 0.0f); }

template <class T>
struct Gradients {
  Heads<const T> out;
  Heads<T> q, k, v;
  float* bias;  // gradient of the biased scores of every sequence, laid out as the weights; null: not needed
};

// One key head of one sequence, for all query heads that read it. `weights` and `place`, the position of their random
// numbers, are those of the sequence.
template <class T>
void attend_head(const Training<T>& c, Heads<T> out, Long sequence, Long kv, T* weights, Long place) {
  const Span& span = c.spans[sequence];
  Workspace& space = Workspace::own();
  Long width = score_width(span.keys), many = block_rows(width, c.causal), wide = rounded_up(c.value_size, kPanel);
  Panels keys = transpose_panels<T>({c.k, sequence, kv, span.key, span.keys, c.size},
                               space.take(c.size, rounded_up(span.keys, kPanel)));
  Panels values = copy_panels<T>({c.v, sequence, kv, span.key, span.keys, c.value_size}, space.take(span.keys, wide));
  float *queries = space.take(many, c.size), *scores = space.take(many, width), *mixed = space.take(many, wide);
  for (Long head = kv * c.group(); head < (kv + 1) * c.group(); ++head) {
    for (Long first = 0; first < span.queries; first += many) {
      Block b = block_at(c, span, first, many);
      copy<T>({c.q, sequence, head, span.query + first, b.rows(), c.size}, queries);
      product({queries, c.size, 1}, b.rows(), keys, 0, c.size, b.begin, b.end, scores, width);
      for (Long t = b.first; t < b.last; ++t) {
        Long at = head * span.queries + t;
        T* kept = weights + at * span.keys;
        Row row{scores + (t - first) * width, b.begin, b.end, c.reach(span, t), nullptr, nullptr};
        if (c.mask) row.mask = c.mask + sequence * c.mask_row + head * c.mask_head + t * c.mask_query;
        if (c.bias) row.bias = c.bias + head * c.bias_head + t * c.bias_query;
        soften_row(row, c.scale, c.dropout, place + at, kept);
        std::fill(kept, kept + b.begin, T{});
        std::fill(kept + b.end, kept + span.keys, T{});
      }
      product({scores + b.begin, width, 1}, b.rows(), values, b.begin, b.end - b.begin, 0, c.value_size, mixed, wide);
      write<T>(mixed, wide, 1.0f, {out, sequence, head, span.query + first, b.rows(), c.value_size});
    }
  }
}

template <class T>
void attend_head_backward(const Training<T>& c, const Gradients<T>& d, Long sequence, Long kv, const T* weights, float* bias) {
  const Span& span = c.spans[sequence];
  Workspace& space = Workspace::own();
  Long wide = rounded_up(c.size, kPanel), value_wide = rounded_up(c.value_size, kPanel);
  Long width = score_width(span.keys), many = block_rows(2 * width, c.causal);
  Panels keys = copy_panels<T>({c.k, sequence, kv, span.key, span.keys, c.size}, space.take(span.keys, wide));
  Panels values = transpose_panels<T>({c.v, sequence, kv, span.key, span.keys, c.value_size},
                                 space.take(c.value_size, rounded_up(span.keys, kPanel)));
  float *queries_at = space.take(many, wide), *out_at = space.take(many, value_wide), *out = space.take(many, c.value_size);
  float *grad = space.take(many, width), *read = space.take(many, width);
  float *dq = space.take(many, wide), *dk = space.take(span.keys, wide), *dv = space.take(span.keys, value_wide);
  std::fill(dk, dk + span.keys * wide, 0.0f);
  std::fill(dv, dv + span.keys * value_wide, 0.0f);
  for (Long head = kv * c.group(); head < (kv + 1) * c.group(); ++head) {
    for (Long first = 0; first < span.queries; first += many) {
      Block b = block_at(c, span, first, many);
      Long rows = b.rows(), depth = b.end - b.begin;
      Tokens<const T> dout{d.out, sequence, head, span.query + first, rows, c.value_size};
      Panels queries = copy_panels<T>({c.q, sequence, head, span.query + first, rows, c.size}, queries_at);
      Panels outs = copy_panels<T>(dout, out_at);
      copy<T>(dout, out);
      product({out, c.value_size, 1}, rows, values, 0, c.value_size, b.begin, b.end, grad, width);
      for (Long t = b.first; t < b.last; ++t) {
        Long at = (head * span.queries + t) * span.keys;
        float *s = grad + (t - first) * width, *r = read + (t - first) * width;
        soften_row_backward(weights + at, s, r, b.begin, b.end, c.dropout.growth());
        if (bias) std::copy(s + b.begin, s + b.end, bias + at + b.begin);
        clear_after(s, b.end);
        clear_after(r, b.end);
      }
      product({read + b.begin, 1, width}, depth, outs, 0, rows, 0, c.value_size, dv + b.begin * value_wide, value_wide, true);
      product({grad + b.begin, 1, width}, depth, queries, 0, rows, 0, c.size, dk + b.begin * wide, wide, true);
      product({grad + b.begin, width, 1}, rows, keys, b.begin, depth, 0, c.size, dq, wide);
      write<T>(dq, wide, c.scale, {d.q, sequence, head, span.query + first, rows, c.size});
    }
  }
  write<T>(dk, wide, c.scale, {d.k, sequence, kv, span.key, span.keys, c.size});
  write<T>(dv, value_wide, 1.0f, {d.v, sequence, kv, span.key, span.keys, c.value_size});
}

// Run work(sequence, key head, weights of earlier sequences, rows of weights before), starting with the last, longest one.
template <class T, class Work>
void for_heads(const Training<T>& c, int threads, const Work& work) {
  std::vector<Long> weights{0}, rows{0};
  for (Long i = 0; i < c.sequences; ++i) {
    rows.push_back(rows[i] + c.heads * c.spans[i].queries);
    weights.push_back(weights[i] + c.heads * c.spans[i].queries * c.spans[i].keys);
  }
  const Long tasks = c.sequences * c.kv_heads;
  parallel_for(threads, tasks, [&](Long task) {
    Long place = tasks - 1 - task, sequence = place / c.kv_heads;
    work(sequence, place % c.kv_heads, weights[sequence], rows[sequence]);
  });
}

template <class T>
void attend_training(const Training<T>& c, Heads<T> out, T* weights, int threads) {
  for_heads(c, threads, [&](Long sequence, Long kv, Long before, Long place) {
    attend_head(c, out, sequence, kv, weights + before, place);
  });
}

template <class T>
void attend_training_backward(const Training<T>& c, const Gradients<T>& d, const T* weights, int threads) {
  for_heads(c, threads, [&](Long sequence, Long kv, Long before, Long) {
    attend_head_backward(c, d, sequence, kv, weights + before, d.bias ? d.bias + before : nullptr);
  });
}

}  // namespace
