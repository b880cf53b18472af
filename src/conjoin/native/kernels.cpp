// CPU kernels. Decoding: linear layers over few rows, attention of few queries over cached keys. Training: attention with
// dropout and its gradients, gradients of weights, dropout, norms, gated activations and rotary positions.
//
// The interface is plain C over raw pointers, without any library's headers: it compiles in seconds with any g++ or
// clang++, and every framework can call it. The kernels are written once over vectors.h and compiled for each instruction
// set of levels.py; the fastest one that the processor has is loaded.
//
// Linear layers read the weight as it is stored, (out, in), row by row: a dot product per output, without packing. Each
// output is the same sequence of operations for any number of rows, so a row's result does not depend on its batch.

#include "decode.h"
#include "gradient.h"
#include "level.h"
#include "pointwise.h"
#include "threads.h"
#include "training.h"

namespace {

template <class D, class Out>
void linear(const typename D::X* x, Long rows, Long x_stride, const typename D::W* w, const Out* bias, Out* y, Long n,
            Long m, int threads) {
  parallel_for(threads, threads, [&](Long part) {
    Long first, last;
    share(m, part, threads, &first, &last);
    if (first < last) {
      dots<D>(x, rows, x_stride, w, n, n, first, last, [&](Long r, Long o, float sum) {
        store(y + r * m + o, bias ? sum + to_float(bias[o]) : sum);
      });
    }
  });
}

template <class T>
void linear_int8(const T* x, Long rows, Long x_stride, const int8_t* w, const float* scales, const int32_t* w_sums,
                 const T* bias, T* y, Long n, Long m, int threads) {
  std::unique_ptr<uint8_t[]> bytes(new uint8_t[rows * n]);
  std::unique_ptr<float[]> x_scales(new float[rows]);
  parallel_for(threads, rows, [&](Long r) { x_scales[r] = quantise(x + r * x_stride, n, bytes.get() + r * n); });
  parallel_for(threads, threads, [&](Long part) {
    Long first, last;
    share(m, part, threads, &first, &last);
    if (first < last) {
      dots<Bytes>(bytes.get(), rows, n, w, n, n, first, last, [&](Long r, Long o, int32_t sum) {
        float value = static_cast<float>(sum - Bytes::zero * w_sums[o]) * (x_scales[r] * scales[o]);
        store(y + r * m + o, bias ? value + to_float(bias[o]) : value);
      });
    }
  });
}

template <class Q, class T>
void attention(const Call<Q, T, Q>& c, int threads) {
  parallel_for(threads, threads, [&](Long part) {
    Scratch<T> scratch(c.queries(), c.size);
    for (Long head = part; head < c.sources * c.kv_heads; head += threads)
      read_head(c, head / c.kv_heads, head % c.kv_heads, scratch);
  });
}

template <class Q, class T>
Call<Q, T, Q> make_call(const void* q, const void* k, const void* v, const uint8_t* mask, const float* bias, void* out,
                        const Long* s, float scale) {
  Call<Q, T, Q> c{};
  c.q = static_cast<const Q*>(q), c.k = static_cast<const T*>(k), c.v = static_cast<const T*>(v);
  c.mask = mask, c.bias = bias, c.out = static_cast<Q*>(out), c.scale = scale;
  Long* numbers[] = {&c.sources, &c.beams,  &c.heads,  &c.kv_heads,  &c.length,   &c.keys,     &c.size,      &c.q_row,
                     &c.q_head,  &c.q_time, &c.k_row,  &c.k_head,    &c.k_time,   &c.v_row,    &c.v_head,    &c.v_time,
                     &c.mask_row, &c.mask_time, &c.mask_key, &c.bias_head, &c.bias_time, &c.bias_key};
  for (Long* number : numbers) *number = *s++;
  c.own = c.keys - c.length;
  return c;
}

// The integer arguments of a call, one after the other.
struct Numbers {
  const Long* next;

  Long one() { return *next++; }
  template <class T>
  Heads<T> heads(const void* p) {
    Long row = one(), head = one(), time = one();
    return {static_cast<T*>(const_cast<void*>(p)), row, head, time};
  }
};

// Tensors and numbers of attention in training; torch/cpu/native/training.py passes them in this order.
template <class T>
Training<T> make_training(const void* const* tensors, Numbers& n, float scale, uint64_t seed) {
  Training<T> c{};
  c.spans = static_cast<const Span*>(tensors[3]), c.mask = static_cast<const uint8_t*>(tensors[4]);
  c.bias = static_cast<const float*>(tensors[5]), c.scale = scale, c.dropout.seed = seed;
  Long* numbers[] = {&c.sequences, &c.heads,        &c.kv_heads, &c.size,      &c.value_size, &c.causal,    &c.window,
                     &c.ahead,     &c.dropout.kept, &c.mask_row, &c.mask_head, &c.mask_query, &c.bias_head, &c.bias_query};
  for (Long* number : numbers) *number = n.one();
  c.q = n.heads<const T>(tensors[0]), c.k = n.heads<const T>(tensors[1]), c.v = n.heads<const T>(tensors[2]);
  return c;
}

template <class T>
void train(const void* const* tensors, const Long* numbers, float scale, uint64_t seed, int threads) {
  Numbers n{numbers};
  Training<T> c = make_training<T>(tensors, n, scale, seed);
  Heads<T> out = n.heads<T>(tensors[6]);
  attend_training(c, out, static_cast<T*>(const_cast<void*>(tensors[7])), threads);
}

template <class T>
void train_backward(const void* const* tensors, const Long* numbers, float scale, int threads) {
  Numbers n{numbers};
  Training<T> c = make_training<T>(tensors, n, scale, 0);
  Gradients<T> d{};
  d.out = n.heads<const T>(tensors[6]);
  d.q = n.heads<T>(tensors[8]), d.k = n.heads<T>(tensors[9]), d.v = n.heads<T>(tensors[10]);
  d.bias = static_cast<float*>(const_cast<void*>(tensors[11]));
  attend_training_backward(c, d, static_cast<const T*>(tensors[7]), threads);
}

// Threads for rows of scores: waking them costs more than a few short rows.
int threads_for(Long rows, Long vocab, int threads) { return rows * vocab < (1 << 16) ? 1 : threads; }

// The state of one source, from that of all.
Beams of_source(const BeamRules& rules, Beams all, Long source) {
  Long beams = source * rules.beams, ids = beams * rules.max_length;
  Long origins = beams * (rules.max_length - rules.prompt);
  all.ids += ids, all.spare_ids += ids, all.finished_ids += ids;
  if (all.origins) all.origins += origins, all.spare_origins += origins, all.finished_origins += origins;
  all.scores += beams, all.finished_scores += beams, all.finished_lengths += beams, all.is_finished += beams;
  all.improvable += source, all.done += source;
  return all;
}

}  // namespace

extern "C" {

// y[rows, m] = x[rows, n] w[m, n]^T + bias[m]; y and w contiguous, x with unit stride along n.
void conjoin_linear_f32(const float* x, Long rows, Long x_stride, const float* w, const float* bias, float* y, Long n,
                        Long m, int threads) {
  linear<Wide<float>, float>(x, rows, x_stride, w, bias, y, n, m, threads);
}

void conjoin_linear_bf16(const bf16* x, Long rows, Long x_stride, const bf16* w, const bf16* bias, bf16* y, Long n,
                         Long m, int threads) {
  linear<Brain, bf16>(x, rows, x_stride, w, bias, y, n, m, threads);
}

// w[m, n] is int8 with a scale per output; each row of x is quantised separately; w_sums[m] are the row sums of w.
void conjoin_linear_int8_f32(const float* x, Long rows, Long x_stride, const int8_t* w, const float* scales,
                             const int32_t* w_sums, const float* bias, float* y, Long n, Long m, int threads) {
  linear_int8<float>(x, rows, x_stride, w, scales, w_sums, bias, y, n, m, threads);
}

void conjoin_linear_int8_bf16(const bf16* x, Long rows, Long x_stride, const int8_t* w, const float* scales,
                              const int32_t* w_sums, const bf16* bias, bf16* y, Long n, Long m, int threads) {
  linear_int8<bf16>(x, rows, x_stride, w, scales, w_sums, bias, y, n, m, threads);
}

// sizes: sources, beams, heads, kv_heads, length, keys, head size; then the strides in the order of Call.
void conjoin_attention_f32(const void* q, const void* k, const void* v, const uint8_t* mask, const float* bias,
                           void* out, const Long* sizes, float scale, int threads) {
  attention(make_call<float, float>(q, k, v, mask, bias, out, sizes, scale), threads);
}

void conjoin_attention_bf16(const void* q, const void* k, const void* v, const uint8_t* mask, const float* bias,
                            void* out, const Long* sizes, float scale, int threads) {
  attention(make_call<bf16, bf16>(q, k, v, mask, bias, out, sizes, scale), threads);
}

// Keys and values in 8 bits, each row followed by its scale.
void conjoin_attention_int8_f32(const void* q, const void* k, const void* v, const uint8_t* mask, const float* bias,
                                void* out, const Long* sizes, float scale, int threads) {
  attention(make_call<float, int8_t>(q, k, v, mask, bias, out, sizes, scale), threads);
}

void conjoin_attention_int8_bf16(const void* q, const void* k, const void* v, const uint8_t* mask, const float* bias,
                                 void* out, const Long* sizes, float scale, int threads) {
  attention(make_call<bf16, int8_t>(q, k, v, mask, bias, out, sizes, scale), threads);
}

// Attention in training. Tensors: q, k, v, spans, mask, bias, out, weights; numbers: those of make_training, then out's
// strides.
void conjoin_train_f32(const void* const* tensors, const Long* numbers, float scale, uint64_t seed, int threads) {
  train<float>(tensors, numbers, scale, seed, threads);
}

void conjoin_train_bf16(const void* const* tensors, const Long* numbers, float scale, uint64_t seed, int threads) {
  train<bf16>(tensors, numbers, scale, seed, threads);
}

// Tensors: the same, with the gradient of out in its place, then the gradients of q, k, v and that of the biased scores
// (float32, laid out as the weights, or null). Numbers: the same, then the strides of the gradients of q, k and v.
void conjoin_train_backward_f32(const void* const* tensors, const Long* numbers, float scale, int threads) {
  train_backward<float>(tensors, numbers, scale, threads);
}

void conjoin_train_backward_bf16(const void* const* tensors, const Long* numbers, float scale, int threads) {
  train_backward<bf16>(tensors, numbers, scale, threads);
}

// dw[m, n] = dy[rows, m]^T x[rows, n], contiguous, or dw += that product; dw is float32.
void conjoin_weight_gradient_f32(const float* dy, const float* x, float* dw, Long rows, Long m, Long n, int add,
                                 int threads) {
  weight_gradient(dy, x, dw, rows, m, n, add != 0, threads);
}

void conjoin_weight_gradient_bf16(const bf16* dy, const bf16* x, float* dw, Long rows, Long m, Long n, int add,
                                  int threads) {
  weight_gradient(dy, x, dw, rows, m, n, add != 0, threads);
}

// Dropout by seed; `kept` of 65536 values are kept.
void conjoin_drop_f32(const float* x, float* y, Long count, uint64_t seed, Long kept, int threads) {
  drop(x, y, count, Dropout{seed, kept}, threads);
}

void conjoin_drop_bf16(const bf16* x, bf16* y, Long count, uint64_t seed, Long kept, int threads) {
  drop(x, y, count, Dropout{seed, kept}, threads);
}

// RMSNorm of float32 or bf16 rows, whose result is the one or the other; parts: a row of `size` numbers per part_rows rows.
void conjoin_rms_norm_f32_f32(const float* x, const float* weight, float* y, Long rows, Long size, float eps, float offset,
                              int threads) {
  rms_norm(x, weight, y, rows, size, eps, offset, threads);
}

void conjoin_rms_norm_bf16_f32(const bf16* x, const float* weight, float* y, Long rows, Long size, float eps, float offset,
                               int threads) {
  rms_norm(x, weight, y, rows, size, eps, offset, threads);
}

void conjoin_rms_norm_bf16_bf16(const bf16* x, const float* weight, bf16* y, Long rows, Long size, float eps, float offset,
                                int threads) {
  rms_norm(x, weight, y, rows, size, eps, offset, threads);
}

void conjoin_rms_norm_backward_f32_f32(const float* dy, const float* x, const float* weight, float* dx, float* parts,
                                       Long part_rows, Long rows, Long size, float eps, float offset, int threads) {
  rms_norm_backward(dy, x, weight, dx, parts, part_rows, rows, size, eps, offset, threads);
}

void conjoin_rms_norm_backward_bf16_f32(const float* dy, const bf16* x, const float* weight, bf16* dx, float* parts,
                                        Long part_rows, Long rows, Long size, float eps, float offset, int threads) {
  rms_norm_backward(dy, x, weight, dx, parts, part_rows, rows, size, eps, offset, threads);
}

void conjoin_rms_norm_backward_bf16_bf16(const bf16* dy, const bf16* x, const float* weight, bf16* dx, float* parts,
                                         Long part_rows, Long rows, Long size, float eps, float offset, int threads) {
  rms_norm_backward(dy, x, weight, dx, parts, part_rows, rows, size, eps, offset, threads);
}

// activation(gate) * up of `count` numbers; activation: 0 gelu, 1 gelu_tanh, 2 silu.
void conjoin_gated_f32(const float* gate, const float* up, float* y, Long count, Long activation, int threads) {
  with_activation(activation, [&](auto a) { gated<decltype(a)>(gate, up, y, count, threads); });
}

void conjoin_gated_bf16(const bf16* gate, const bf16* up, bf16* y, Long count, Long activation, int threads) {
  with_activation(activation, [&](auto a) { gated<decltype(a)>(gate, up, y, count, threads); });
}

void conjoin_gated_backward_f32(const float* dy, const float* gate, const float* up, float* dgate, float* dup, Long count,
                                Long activation, int threads) {
  with_activation(activation, [&](auto a) { gated_backward<decltype(a)>(dy, gate, up, dgate, dup, count, threads); });
}

void conjoin_gated_backward_bf16(const bf16* dy, const bf16* gate, const bf16* up, bf16* dgate, bf16* dup, Long count,
                                 Long activation, int threads) {
  with_activation(activation, [&](auto a) { gated_backward<decltype(a)>(dy, gate, up, dgate, dup, count, threads); });
}

// Rotary positions of heads; see Turning.
void conjoin_rotate_f32(const Turning* sizes, const float* x, float* y, const float* cos, const float* sin, float sign,
                        int threads) {
  rotate(*sizes, x, y, cos, sin, sign, threads);
}

void conjoin_rotate_bf16(const Turning* sizes, const bf16* x, bf16* y, const float* cos, const float* sin, float sign,
                         int threads) {
  rotate(*sizes, x, y, cos, sin, sign, threads);
}

// Copy rows of a cache over others; see rows.h. `count` tensors, `rows` rows.
void conjoin_move_rows(const Moving* tensors, Long count, const Long* to, const Long* from, Long rows, int threads) {
  move_rows(tensors, count, to, from, rows, threads);
}

// A pass over a stack, and the keys and values of cross-attention; see pass.h. The cache is float32, bf16 or in 8 bits.
void conjoin_pass_f32(const PassCall* call) { run_pass<float>(*call); }

void conjoin_pass_bf16(const PassCall* call) { run_pass<bf16>(*call); }

void conjoin_pass_int8(const PassCall* call) { run_pass<int8_t>(*call); }

void conjoin_read_sources_f32(const PassCall* call, Long width) { run_sources<float>(*call, width); }

void conjoin_read_sources_bf16(const PassCall* call, Long width) { run_sources<bf16>(*call, width); }

void conjoin_read_sources_int8(const PassCall* call, Long width) { run_sources<int8_t>(*call, width); }

// Steps of several requests; see decode.h. Returns their number.
Long conjoin_decode_f32(const DecodeCall* call) { return run_decode<float>(*call); }

Long conjoin_decode_bf16(const DecodeCall* call) { return run_decode<bf16>(*call); }

Long conjoin_decode_int8(const DecodeCall* call) { return run_decode<int8_t>(*call); }

// Places of the best scores of `rows` rows.
void conjoin_argmax(const float* scores, Long rows, Long row, Long vocab, Long* places, int threads) {
  parallel_for(threads_for(rows, vocab, threads), rows, [&](Long r) { places[r] = argmax(scores + r * row, vocab); });
}

void conjoin_top_k(const float* scores, Long rows, Long row, Long vocab, Long k, float* values, Long* places,
                   int threads) {
  parallel_for(threads_for(rows, vocab, threads), rows,
               [&](Long r) { top_k(scores + r * row, vocab, k, values + r * k, places + r * k); });
}

// Edit contiguous scores [rows, vocab] in place. ids: `length` of every row, `ids_row` apart. sources: of each row.
void conjoin_process_rows(const Rule* rules, Long count, const Long* ids, Long ids_row, Long length, float* scores,
                          Long rows, Long vocab, const Long* sources, int threads) {
  Long longest = std::max(vocab, length);
  for (Long i = 0; i < count; ++i) longest = std::max(longest, rules[i].source_length);
  threads = threads_for(rows, vocab, threads);
  parallel_for(threads, threads, [&](Long part) {
    std::unique_ptr<float[]> numbers(new float[longest]);
    std::unique_ptr<Long[]> places(new Long[longest]);
    for (Long r = part; r < rows; r += threads) {
      process_row(rules, count, ids + r * ids_row, length, scores + r * vocab, vocab, sources[r],
                  RuleMemory{numbers.get(), places.get()});
    }
  });
}

// Beam search of `sources` sources, whose states and candidates lie one behind the other; see beams.h. scores:
// contiguous, `rows` rows per source. values, tokens: memory for the candidates of every row.
void conjoin_find_candidates(const BeamRules* rules, const Beams* state, Long sources, const float* scores, Long rows,
                             Long vocab, int raw, float* values, Long* tokens, const Candidates* out, int threads) {
  Long count = rules->count(vocab), few = std::min(count, vocab);
  parallel_for(threads_for(sources * rows, vocab, threads), sources * rows, [&](Long r) {
    find_row_candidates(*rules, scores + r * vocab, vocab, raw != 0, values + r * few, tokens + r * few);
  });
  for (Long s = 0; s < sources; ++s) {
    Candidates own{out->values + s * count, out->parents + s * count, out->tokens + s * count};
    Long first = s * rows * few;
    merge_candidates(*rules, of_source(*rules, *state, s), values + first, tokens + first, rows, vocab, own);
  }
}

void conjoin_advance_beams(const BeamRules* rules, const Beams* state, Long sources, const Candidates* candidates,
                           Long count, const uint8_t* stops, const Long* rank, Long* parents, Long* tokens,
                           Long* words) {
  for (Long s = 0; s < sources; ++s) {
    Long first = s * rules->beams, c = s * count;
    Beams own = of_source(*rules, *state, s);
    Candidates these{candidates->values + c, candidates->parents + c, candidates->tokens + c};
    advance_beams(*rules, own, these, count, stops ? stops + c : nullptr, rank ? rank + first : nullptr, first,
                  parents + first, tokens + first, words + first);
  }
}
}
