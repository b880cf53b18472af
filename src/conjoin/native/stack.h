// What a stack of transformer blocks is: its layers, norms, embedding and head, as pointers to weights.
//
// torch/cpu/native/layouts.py has these structs, filling.py fills them. Small parameters are float32; matrices have the dtype of their kind.

#pragma once

#include "dots.h"

namespace {

struct LinearSpec {  // y = x w^T + bias
  const void* w;     // (m, n), contiguous; null: no such layer
  const float* bias;
  const float* scale;   // int8: the scale of each output
  const int32_t* sums;  // int8: the sum of each row of w
  Long n, m;
  Long kind;  // 0 float32, 1 bf16, 2 int8
};

struct NormSpec {
  const float *weight, *bias;
  float eps, offset;
  Long kind;  // 0 none, 1 layer norm, 2 root mean square
};

struct BranchSpec {  // y = out(f(pre(x))), then x = post(x + scale * gate * y)
  NormSpec pre, out, post;
};

struct AttentionSpec {
  LinearSpec q, k, v, o;
  NormSpec q_norm, k_norm;
  const float* gate;  // null: none
  Long heads, kv_heads, size, window, ahead, rotary;  // rotary: index of the angles, -1 for none
  Long norms_over;  // q_norm and k_norm: 0 every head, 1 all heads of a token together, 2 every head by its own weights
  double scale, softcap;  // softcap 0: none
};

// Relative biases, (heads, width). Usually by distance, 2 * reach + 1 of them: the middle of each row is for a query's own
// key, entries behind it are for keys behind. Where reach is 0, by the position of the key, the same for every query.
struct BiasTable {
  const float* values;  // null: none
  Long reach, width;
};

struct LayerSpec {
  AttentionSpec self, cross;
  BranchSpec self_norms, cross_norms, mlp_norms;
  LinearSpec up, gate, down;
  Long parallel;    // every branch reads the block's input
  Long activation;  // in the order of `activate`
  Long has_cross;
  Long source;  // self-attention reads the source, too: 0 no, 1 the encoder's output, 2 one of its states, as a prefix
  Long state;   // which state
  double residual_scale;  // factor of what every branch adds
  BiasTable bias;
};

struct TableSpec {  // (rows, size), contiguous
  const void* rows;  // null: no such table
  Long count, size;
  Long kind;  // 0 float32, 1 bf16
};

struct EmbeddingSpec {  // words * scale + types + positions, then norm and projection
  TableSpec words, positions, types;
  NormSpec norm;
  LinearSpec projection;
  const float* replacement;  // instead of the words of `replaced`, not scaled; null: none
  Long replaced;
  Long projects;       // 0 nothing, 1 words and types before positions are added, 2 the sum
  Long first_position;  // row of the position table for the first token
  Long padding_id;      // positions are counted over other ids, from the row behind padding_row; -1: over all
  Long padding_row;
  double scale;
};

struct HeadSpec {  // logits = cap(vocab(norm(activation(dense(projection(x))))))
  LinearSpec projection, dense, vocab;
  NormSpec norm;
  Long activation;
  double scale, softcap;  // scale of the input of vocab; softcap 0: none
};

struct Angles {  // cosines and sines of rotary positions, (count, width); width is even and at most a head's size
  const float *cos, *sin;
  Long count, width;
};

struct StackSpec {
  const LayerSpec* layers;
  const Angles* angles;
  EmbeddingSpec embedding;
  NormSpec final_norm;
  HeadSpec head;
  const Long* states;  // hidden states that are the output, side by side: i is the input of layer i
  Long state_count;    // 0: the output is the last state, after the final norm
  Long count, hidden, causal;
  Long continues;  // positions of the target continue those of the source
};

inline void activate(Long kind, float* x, Long count) {
  switch (kind) {
    case 0:  // gelu
      for (Long i = 0; i < count; ++i) x[i] = 0.5f * x[i] * (1.0f + erf_ratio(x[i] * 0.70710678118654752f));
      break;
    case 1:  // gelu_tanh
      for (Long i = 0; i < count; ++i)
        x[i] = 0.5f * x[i] * (1.0f + tanh_exp(0.79788456080286536f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
      break;
    case 2:  // relu
      for (Long i = 0; i < count; ++i) x[i] = std::max(x[i], 0.0f);
      break;
    case 3:  // silu
      for (Long i = 0; i < count; ++i) x[i] = x[i] * sigmoid(x[i]);
      break;
    case 4:  // quick_gelu
      for (Long i = 0; i < count; ++i) x[i] = x[i] * sigmoid(1.702f * x[i]);
      break;
    default:  // tanh
      for (Long i = 0; i < count; ++i) x[i] = tanh_exp(x[i]);
  }
}

inline void normalise(const NormSpec& norm, const float* x, float* out, Long size) {
  if (norm.kind == 0) {
    if (out != x) std::memcpy(out, x, size * sizeof(float));
    return;
  }
  float mean = 0, spread = 0;
  if (norm.kind == 1) {
#pragma omp simd reduction(+ : mean)
    for (Long i = 0; i < size; ++i) mean += x[i];
    mean /= size;
  }
#pragma omp simd reduction(+ : spread)
  for (Long i = 0; i < size; ++i) spread += (x[i] - mean) * (x[i] - mean);
  float scale = 1.0f / std::sqrt(spread / size + norm.eps);
  for (Long i = 0; i < size; ++i) {
    float y = (x[i] - mean) * scale;
    if (norm.weight) y *= norm.weight[i] + norm.offset;
    out[i] = norm.bias ? y + norm.bias[i] : y;
  }
}

// Row `index` of a table in float32, added to `out` or written over it.
inline void read_row(const TableSpec& table, Long index, float factor, bool add, float* out) {
  auto each = [&](auto* row) {
    for (Long i = 0; i < table.size; ++i) out[i] = to_float(row[i]) * factor + (add ? out[i] : 0.0f);
  };
  if (table.kind == 0)
    each(static_cast<const float*>(table.rows) + index * table.size);
  else
    each(static_cast<const bf16*>(table.rows) + index * table.size);
}

}  // namespace
