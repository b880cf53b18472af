// A decoding step of a whole stack of blocks in one call: it computes `Block.forward` of PyTorch for few tokens.
//
// All threads go through the layers together, and each phase divides its outputs among them. Values between phases are
// float32; inputs of a linear layer are converted to the dtype of its weights, and the cache has a dtype of its own.

#pragma once

#include <vector>

#include "attention.h"
#include "threads.h"

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

struct BranchSpec {  // y = out(f(pre(x))), then x = post(x + gate * y)
  NormSpec pre, out, post;
};

struct AttentionSpec {
  LinearSpec q, k, v, o;
  NormSpec q_norm, k_norm;
  const float* gate;  // null: none
  Long heads, kv_heads, size, window, rotary;  // rotary: index of the angles, -1 for none
  Long norms_projection;  // q_norm and k_norm normalise all heads of a token together
  double scale;
};

struct LayerSpec {
  AttentionSpec self, cross;
  BranchSpec self_norms, cross_norms, mlp_norms;
  LinearSpec up, gate, down;
  Long parallel;    // every branch reads the block's input
  Long activation;  // in the order of `activate`
  Long has_cross;
};

struct CacheTensor {  // keys or values of one layer: [rows, kv_heads, capacity, size], or int8 rows with their scale
  void* data;
  Long row, head, time;
};

struct Angles {  // [rows or 1, length, width], width even and at most a head's size
  const float *cos, *sin;
  Long row, width;
};

struct StepCall {
  float* x;  // [rows, length, hidden]: input and output
  const LayerSpec* layers;
  const CacheTensor *self_k, *self_v, *cross_k, *cross_v;  // one per layer
  const Angles* angles;
  const uint8_t* source_mask;  // [sources, source_keys] by its strides; null: everything may be read
  Long count, rows, length, past, hidden, sources, source_keys, mask_row, mask_key;
  Long threads;
};

struct Team {
  int id, count;
  Barrier& barrier;
  void wait() const { barrier.wait(count); }
  void share(Long outputs, Long* first, Long* last) const { ::share(outputs, id, count, first, last); }
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

// Inputs of a linear layer in the dtype of its weights: float32, bf16, or int8 with a scale per row.
struct Input {
  const float* wide = nullptr;
  std::vector<bf16> half;
  std::vector<uint8_t> bytes;
  std::vector<float> scales;
};

template <class T>
class Steps {
 public:
  explicit Steps(const StepCall& call) : c(call), tokens(c.rows * c.length) {
    Long heads = 0, inner = 0, widest = c.hidden, most_queries = 0, size = 0;
    for (Long i = 0; i < c.count; ++i) {
      const LayerSpec& layer = c.layers[i];
      for (const AttentionSpec* a : {&layer.self, &layer.cross}) {
        if (!a->q.w) continue;
        heads = std::max(heads, a->heads * a->size);
        size = std::max(size, a->size);
        Long queries = tokens / (a == &layer.self ? c.rows : c.sources) * (a->heads / a->kv_heads);
        most_queries = std::max(most_queries, queries);
      }
      inner = std::max(inner, layer.up.m);
    }
    widest = std::max({widest, heads, inner});
    for (auto* buffer : {&q, &k, &v, &mixed}) buffer->resize(tokens * heads);
    for (auto* buffer : {&normed, &out, &start}) buffer->resize(tokens * c.hidden);
    middle.resize(tokens * inner);
    gated.resize(tokens * inner);
    converted_q.resize(tokens * heads);
    input.half.resize(tokens * widest);
    input.bytes.resize(tokens * widest);
    input.scales.resize(tokens);
    scratch_queries = most_queries;
    scratch_size = size;
  }

  void run() {
    Barrier barrier;
    parallel(static_cast<int>(c.threads), [&](int id, int count) {
      Team team{id, count, barrier};
      Scratch<T> scratch(scratch_queries, scratch_size);
      for (Long i = 0; i < c.count; ++i) block(team, c.layers[i], i, scratch);
    });
  }

 private:
  const StepCall& c;
  Long tokens, scratch_queries = 0, scratch_size = 0;
  std::vector<float> q, k, v, mixed, normed, out, start, middle, gated;
  std::vector<typename Rows<T>::Handed> converted_q;
  Input input;

  void block(const Team& team, const LayerSpec& layer, Long index, Scratch<T>& scratch) {
    if (layer.parallel) {
      copy(team);
      team.wait();
    }
    attend(team, layer, layer.self, layer.self_norms, index, false, scratch);
    if (layer.has_cross) attend(team, layer, layer.cross, layer.cross_norms, index, true, scratch);
    mlp(team, layer);
  }

  void copy(const Team& team) {
    for (Long r = team.id; r < tokens; r += team.count)
      std::memcpy(start.data() + r * c.hidden, c.x + r * c.hidden, c.hidden * sizeof(float));
  }

  // Set `input` to the input of a branch: x (in a parallel block, the block's input) after the branch's first norm.
  void pre_norm(const Team& team, const LayerSpec& layer, const NormSpec& norm, Long kind) {
    const float* from = layer.parallel ? start.data() : c.x;
    if (norm.kind == 0) {
      if (team.id == 0) input.wide = from;
    } else {
      for (Long r = team.id; r < tokens; r += team.count)
        normalise(norm, from + r * c.hidden, normed.data() + r * c.hidden, c.hidden);
      if (team.id == 0) input.wide = normed.data();
    }
    team.wait();
    convert(team, c.hidden, kind);
  }

  // Add a branch's output to x, and apply the norms of the output and of the sum.
  void add_residual(const Team& team, const BranchSpec& norms, const float* gate) {
    team.wait();
    float factor = gate ? *gate : 1.0f;
    for (Long r = team.id; r < tokens; r += team.count) {
      float *x = c.x + r * c.hidden, *y = out.data() + r * c.hidden;
      normalise(norms.out, y, y, c.hidden);
      for (Long i = 0; i < c.hidden; ++i) x[i] += y[i] * factor;
      normalise(norms.post, x, x, c.hidden);
    }
    team.wait();
  }

  void convert(const Team& team, Long n, Long kind) {
    if (kind == 0) return;
    for (Long r = team.id; r < tokens; r += team.count) {
      const float* x = input.wide + r * n;
      if (kind == 1) {
        bf16* to = input.half.data() + r * n;
        for (Long i = 0; i < n; ++i) to[i] = narrow(x[i]);
      }
      if (kind == 2) input.scales[r] = quantise(x, n, input.bytes.data() + r * n);
    }
    team.wait();
  }

  // Compute this thread's share of a linear layer's outputs, for all tokens; call `wait` before reading them.
  void project(const Team& team, const LinearSpec& s, float* y) {
    Long first, last;
    team.share(s.m, &first, &last);
    if (first >= last) return;
    auto put = [&](Long r, Long o, float sum) { y[r * s.m + o] = s.bias ? sum + s.bias[o] : sum; };
    if (s.kind == 0)
      dots<Wide<float>>(input.wide, tokens, s.n, static_cast<const float*>(s.w), s.n, s.n, first, last, put);
    else if (s.kind == 1)
      dots<Brain>(input.half.data(), tokens, s.n, static_cast<const bf16*>(s.w), s.n, s.n, first, last, put);
    else
      dots<Bytes>(input.bytes.data(), tokens, s.n, static_cast<const int8_t*>(s.w), s.n, s.n, first, last,
                  [&](Long r, Long o, int32_t sum) {
                    put(r, o, static_cast<float>(sum - Bytes::zero * s.sums[o]) * (input.scales[r] * s.scale[o]));
                  });
  }

  void mlp(const Team& team, const LayerSpec& layer) {
    pre_norm(team, layer, layer.mlp_norms.pre, layer.up.kind);
    project(team, layer.up, middle.data());
    Long first, last, inner = layer.up.m;
    team.share(inner, &first, &last);
    if (layer.gate.w) {
      project(team, layer.gate, gated.data());
      for (Long r = 0; first < last && r < tokens; ++r) {
        float *m = middle.data() + r * inner, *g = gated.data() + r * inner;
        activate(layer.activation, g + first, last - first);
        for (Long i = first; i < last; ++i) m[i] *= g[i];
      }
    } else {
      for (Long r = 0; first < last && r < tokens; ++r)
        activate(layer.activation, middle.data() + r * inner + first, last - first);
    }
    team.wait();
    if (team.id == 0) input.wide = middle.data();
    team.wait();
    convert(team, inner, layer.down.kind);
    project(team, layer.down, out.data());
    add_residual(team, layer.mlp_norms, nullptr);
  }

  void attend(const Team& team, const LayerSpec& layer, const AttentionSpec& a, const BranchSpec& norms, Long index,
              bool cross, Scratch<T>& scratch) {
    pre_norm(team, layer, norms.pre, a.q.kind);
    project(team, a.q, q.data());
    if (!cross) {
      project(team, a.k, k.data());
      project(team, a.v, v.data());
    }
    team.wait();
    if (a.norms_projection) norm_projections(team, a, cross);
    rotate_queries(team, a);
    if (!cross) {
      write_to_cache(team, a, a.k_norm, a.rotary, k.data(), c.self_k[index]);
      write_to_cache(team, a, NormSpec{}, -1, v.data(), c.self_v[index]);
    }
    team.wait();
    auto call = attention_call(a, index, cross);
    for (Long task = team.id; task < call.sources * call.kv_heads; task += team.count)
      read_head(call, task / call.kv_heads, task % call.kv_heads, scratch);
    if (team.id == 0) input.wide = mixed.data();
    team.wait();
    convert(team, a.heads * a.size, a.o.kind);
    project(team, a.o, out.data());
    add_residual(team, norms, a.gate);
  }

  Call<typename Rows<T>::Handed, T, float> attention_call(const AttentionSpec& a, Long index, bool cross) {
    const CacheTensor& keys = cross ? c.cross_k[index] : c.self_k[index];
    const CacheTensor& values = cross ? c.cross_v[index] : c.self_v[index];
    Call<typename Rows<T>::Handed, T, float> r{};
    r.q = converted_q.data(), r.k = static_cast<const T*>(keys.data), r.v = static_cast<const T*>(values.data);
    r.out = mixed.data();
    r.sources = cross ? c.sources : c.rows;
    r.beams = c.rows / r.sources;
    r.heads = a.heads, r.kv_heads = a.kv_heads, r.length = c.length, r.size = a.size;
    r.keys = cross ? c.source_keys : c.past + c.length;
    r.q_row = c.length * a.heads * a.size, r.q_head = a.size, r.q_time = a.heads * a.size;
    r.k_row = keys.row, r.k_head = keys.head, r.k_time = keys.time;
    r.v_row = values.row, r.v_head = values.head, r.v_time = values.time;
    r.scale = static_cast<float>(a.scale);
    if (cross) {
      r.mask = c.source_mask, r.mask_row = c.mask_row, r.mask_key = c.mask_key;
    } else {
      r.causal = true, r.window = a.window;
    }
    return r;
  }

  void norm_projections(const Team& team, const AttentionSpec& a, bool cross) {
    Long queries = a.heads * a.size, keys = a.kv_heads * a.size;
    for (Long r = team.id; r < tokens; r += team.count) {
      normalise(a.q_norm, q.data() + r * queries, q.data() + r * queries, queries);
      if (!cross) normalise(a.k_norm, k.data() + r * keys, k.data() + r * keys, keys);
    }
    team.wait();
  }

  // Normalise and rotate one head of one token, in place.
  void rotate(const AttentionSpec& a, const NormSpec& norm, Long rotary, float* head, Long token) {
    if (norm.kind && !a.norms_projection) normalise(norm, head, head, a.size);
    if (rotary < 0) return;
    const Angles& angles = c.angles[rotary];
    Long at = token / c.length * angles.row + token % c.length * angles.width, half = angles.width / 2;
    const float *cos = angles.cos + at, *sin = angles.sin + at;
    for (Long i = 0; i < half; ++i) {
      float first = head[i], second = head[half + i];
      head[i] = first * cos[i] - second * sin[i];
      head[half + i] = second * cos[half + i] + first * sin[half + i];
    }
  }

  void rotate_queries(const Team& team, const AttentionSpec& a) {
    for (Long i = team.id; i < tokens * a.heads; i += team.count) {
      float* head = q.data() + i * a.size;
      rotate(a, a.q_norm, a.rotary, head, i / a.heads);
      for (Long e = 0; e < a.size; ++e) store(converted_q.data() + i * a.size + e, head[e]);
    }
  }

  void write_to_cache(const Team& team, const AttentionSpec& a, const NormSpec& norm, Long rotary, float* from,
                      const CacheTensor& cache) {
    for (Long i = team.id; i < tokens * a.kv_heads; i += team.count) {
      Long token = i / a.kv_heads, row = token / c.length, time = c.past + token % c.length;
      float* head = from + i * a.size;
      rotate(a, norm, rotary, head, token);
      T* to = static_cast<T*>(cache.data) + row * cache.row + i % a.kv_heads * cache.head + time * cache.time;
      Rows<T>::write(to, head, a.size);
    }
  }
};

}  // namespace
