// Kernels for decoding on a CPU: linear layers over few rows, and attention of few queries over cached keys.
//
// Plain C interface over raw pointers, no library's headers: compiles in seconds with any g++ or clang++, and every
// framework may call it. Written for AVX-512 (with its bf16 and int8 dot products where the compiler's target has
// them); without AVX-512 the float32 and bf16 kernels still compile, as vectors of the compiler's own.
//
// Linear layers read the weight as it is stored, (out, in), row by row: a dot product per output, nothing packed. Each
// output is the same sequence of operations whatever the number of rows, so a row's result does not depend on its batch.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>

#include <omp.h>
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include <immintrin.h>
#define HAS_AVX512 1
#endif
#if defined(HAS_AVX512) && defined(__AVX512BF16__)
#define HAS_BF16_DOT 1
#endif
#if defined(HAS_AVX512) && defined(__AVX512VNNI__)
#define HAS_INT8_DOT 1
#endif

namespace {

using Long = int64_t;
using bf16 = uint16_t;
typedef float Floats __attribute__((vector_size(64)));  // sixteen numbers

inline float widen(bf16 x) {
  uint32_t bits = static_cast<uint32_t>(x) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

inline bf16 narrow(float x) {  // to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (std::isnan(x)) return static_cast<bf16>((bits >> 16) | 0x40);
  return static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return widen(x); }
inline void store(float* p, float x) { *p = x; }
inline void store(bf16* p, float x) { *p = narrow(x); }

inline Floats load16(const float* p) {
  Floats v;
  std::memcpy(&v, p, 64);
  return v;
}

inline Floats load16(const bf16* p) {
#if defined(HAS_AVX512)
  __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return (Floats)_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
#else
  float wide[16];
  for (int i = 0; i < 16; ++i) wide[i] = widen(p[i]);
  return load16(wide);
#endif
}

// ---- kinds of numbers: how 64 bytes of two vectors are multiplied and added up ----

// Sums of four accumulators, in a fixed order.
#if defined(HAS_AVX512)
inline __m128 sum4(__m512 a, __m512 b, __m512 c, __m512 d) {
  __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  __m512 low = (__m512)_mm512_unpacklo_pd((__m512d)ab, (__m512d)cd);
  __m512 high = (__m512)_mm512_unpackhi_pd((__m512d)ab, (__m512d)cd);
  __m512 all = _mm512_add_ps(low, high);
  __m128 left = _mm_add_ps(_mm512_castps512_ps128(all), _mm512_extractf32x4_ps(all, 1));
  __m128 right = _mm_add_ps(_mm512_extractf32x4_ps(all, 2), _mm512_extractf32x4_ps(all, 3));
  return _mm_add_ps(left, right);
}
inline void sums(const Floats* a, float* out) { _mm_storeu_ps(out, sum4((__m512)a[0], (__m512)a[1], (__m512)a[2], (__m512)a[3])); }
#else
inline void sums(const Floats* a, float* out) {
  for (int j = 0; j < 4; ++j) {
    float total = 0;
    for (int i = 0; i < 16; ++i) total += a[j][i];
    out[j] = total;
  }
}
#endif

// float32 numbers; bf16 ones too where no instruction multiplies them directly.
template <class T>
struct Wide {
  using W = T;
  using X = T;
  using Vector = Floats;
  using Accumulator = Floats;
  using Sum = float;
  static constexpr int step = 16;
  static Vector load(const T* p) { return load16(p); }
  static Vector load_some(const T* p, int count) {
    T rest[16] = {};
    std::memcpy(rest, p, count * sizeof(T));
    return load16(rest);
  }
  static Vector load_x(const T* p) { return load(p); }
  static Vector load_x_some(const T* p, int count) { return load_some(p, count); }
  static Accumulator add(Accumulator a, Vector x, Vector w) { return a + x * w; }
  static void reduce(const Accumulator* a, Sum* out) { sums(a, out); }
};

#if defined(HAS_BF16_DOT)
struct Brain {
  using W = bf16;
  using X = bf16;
  using Vector = __m512bh;
  using Accumulator = __m512;
  using Sum = float;
  static constexpr int step = 32;
  static Vector load(const bf16* p) { return (__m512bh)_mm512_loadu_si512(p); }
  static Vector load_some(const bf16* p, int count) {
    return (__m512bh)_mm512_maskz_loadu_epi16(static_cast<__mmask32>((1ull << count) - 1), p);
  }
  static Vector load_x(const bf16* p) { return load(p); }
  static Vector load_x_some(const bf16* p, int count) { return load_some(p, count); }
  static Accumulator add(Accumulator a, Vector x, Vector w) { return _mm512_dpbf16_ps(a, x, w); }
  static void reduce(const Accumulator* a, Sum* out) { _mm_storeu_ps(out, sum4(a[0], a[1], a[2], a[3])); }
};
#else
using Brain = Wide<bf16>;
#endif

#if defined(HAS_INT8_DOT)
struct Bytes {  // unsigned x, signed w
  using W = int8_t;
  using X = uint8_t;
  using Vector = __m512i;
  using Accumulator = __m512i;
  using Sum = int32_t;
  static constexpr int step = 64;
  static Vector load(const W* p) { return _mm512_loadu_si512(p); }
  static Vector load_some(const W* p, int count) { return _mm512_maskz_loadu_epi8((1ull << count) - 1, p); }
  static Vector load_x(const X* p) { return _mm512_loadu_si512(p); }
  static Vector load_x_some(const X* p, int count) { return _mm512_maskz_loadu_epi8((1ull << count) - 1, p); }
  static Accumulator add(Accumulator a, Vector x, Vector w) { return _mm512_dpbusd_epi32(a, x, w); }
  static void reduce(const Accumulator* a, Sum* out) {
    for (int j = 0; j < 4; ++j) out[j] = _mm512_reduce_add_epi32(a[j]);
  }
};
#endif

// out[r][o] = x row r . w row o, for a tile of R x O of them; O is a multiple of 4. The weights `ahead` elements further
// on are fetched meanwhile: rows are too short for the processor to foresee where the next ones begin.
template <class D, int R, int O>
inline void tile(const typename D::X* x, Long x_stride, const typename D::W* const* w, Long n, Long ahead,
                 typename D::Sum (*out)[O]) {
  typename D::Accumulator a[R][O] = {};
  Long k = 0;
  for (; k + D::step <= n; k += D::step) {
    typename D::Vector weights[O];
#pragma GCC unroll 8
    for (int o = 0; o < O; ++o) weights[o] = D::load(w[o] + k);
    if (ahead) {
#pragma GCC unroll 8
      for (int o = 0; o < O; ++o) __builtin_prefetch(w[o] + k + ahead);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      typename D::Vector v = D::load_x(x + r * x_stride + k);
#pragma GCC unroll 8
      for (int o = 0; o < O; ++o) a[r][o] = D::add(a[r][o], v, weights[o]);
    }
  }
  if (k < n) {
    int rest = static_cast<int>(n - k);
    for (int o = 0; o < O; ++o) {
      typename D::Vector weights = D::load_some(w[o] + k, rest);
      for (int r = 0; r < R; ++r)
        a[r][o] = D::add(a[r][o], D::load_x_some(x + r * x_stride + k, rest), weights);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int o = 0; o < O; o += 4) D::reduce(&a[r][o], &out[r][o]);
  }
}

// All rows against the outputs [first, last): `finish(row, output, sum)` takes each dot product.
template <class D, int R, int O, class Finish>
inline void strip(const typename D::X* x, Long x_stride, Long row, const typename D::W* w, Long w_stride, Long n,
                  Long first, Long last, Finish finish) {
  const typename D::W* rows[O];
  for (int o = 0; o < O; ++o) rows[o] = w + std::min(first + o, last - 1) * w_stride;
  typename D::Sum out[R][O];
  tile<D, R, O>(x + row * x_stride, x_stride, rows, n, row ? 0 : O * w_stride, out);
  int valid = static_cast<int>(std::min<Long>(O, last - first));
  for (int r = 0; r < R; ++r)
    for (int o = 0; o < valid; ++o) finish(row + r, first + o, out[r][o]);
}

template <class D, class Finish>
void dots(const typename D::X* x, Long rows, Long x_stride, const typename D::W* w, Long w_stride, Long n, Long first,
          Long last, Finish finish) {
  // So many rows of x stay in a core's cache while the weights pass by.
  Long chunk = std::max<Long>(6, (192 * 1024 / static_cast<Long>(sizeof(typename D::X)) / std::max<Long>(n, 1)) / 6 * 6);
  for (Long begin = 0; begin < rows; begin += chunk) {
    Long end = std::min(rows, begin + chunk);
    if (end - begin <= 2) {
      for (Long o = first; o < last; o += 8) {
        if (end - begin == 2)
          strip<D, 2, 8>(x, x_stride, begin, w, w_stride, n, o, last, finish);
        else
          strip<D, 1, 8>(x, x_stride, begin, w, w_stride, n, o, last, finish);
      }
      continue;
    }
    for (Long o = first; o < last; o += 4) {
      Long row = begin;
      for (; row + 6 <= end; row += 6) strip<D, 6, 4>(x, x_stride, row, w, w_stride, n, o, last, finish);
      switch (end - row) {
        case 5: strip<D, 5, 4>(x, x_stride, row, w, w_stride, n, o, last, finish); break;
        case 4: strip<D, 4, 4>(x, x_stride, row, w, w_stride, n, o, last, finish); break;
        case 3: strip<D, 3, 4>(x, x_stride, row, w, w_stride, n, o, last, finish); break;
        case 2: strip<D, 2, 4>(x, x_stride, row, w, w_stride, n, o, last, finish); break;
        case 1: strip<D, 1, 4>(x, x_stride, row, w, w_stride, n, o, last, finish); break;
        default: break;
      }
    }
  }
}

// Outputs of one thread: a run of whole groups of eight.
inline void share(Long outputs, int thread, int threads, Long* first, Long* last) {
  Long groups = (outputs + 7) / 8;
  *first = std::min(outputs, groups * thread / threads * 8);
  *last = std::min(outputs, groups * (thread + 1) / threads * 8);
}

template <class D, class Out>
void linear(const typename D::X* x, Long rows, Long x_stride, const typename D::W* w, const Out* bias, Out* y, Long n,
            Long m, int threads) {
#pragma omp parallel num_threads(threads)
  {
    Long first, last;
    share(m, omp_get_thread_num(), omp_get_num_threads(), &first, &last);
    if (first < last) {
      dots<D>(x, rows, x_stride, w, n, n, first, last, [&](Long r, Long o, float sum) {
        store(y + r * m + o, bias ? sum + to_float(bias[o]) : sum);
      });
    }
  }
}

#if defined(HAS_INT8_DOT)
// One row as unsigned bytes around 128; returns the size of a unit.
template <class T>
float quantise(const T* x, Long n, uint8_t* out) {
  float most = 0;
#pragma omp simd reduction(max : most)
  for (Long i = 0; i < n; ++i) most = std::max(most, std::fabs(to_float(x[i])));
  float scale = most / 127.0f, inverse = most > 0 ? 127.0f / most : 0.0f;
  for (Long i = 0; i < n; ++i)
    out[i] = static_cast<uint8_t>(128 + static_cast<int>(rintf(to_float(x[i]) * inverse)));
  return scale;
}

template <class T>
void linear_int8(const T* x, Long rows, Long x_stride, const int8_t* w, const float* scales, const int32_t* w_sums,
                 const T* bias, T* y, Long n, Long m, int threads) {
  std::unique_ptr<uint8_t[]> bytes(new uint8_t[rows * n]);
  std::unique_ptr<float[]> units(new float[rows]);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (Long r = 0; r < rows; ++r) units[r] = quantise(x + r * x_stride, n, bytes.get() + r * n);
    Long first, last;
    share(m, omp_get_thread_num(), omp_get_num_threads(), &first, &last);
    if (first < last) {
      dots<Bytes>(bytes.get(), rows, n, w, n, n, first, last, [&](Long r, Long o, int32_t sum) {
        float value = static_cast<float>(sum - 128 * w_sums[o]) * (units[r] * scales[o]);
        store(y + r * m + o, bias ? value + to_float(bias[o]) : value);
      });
    }
  }
}
#endif

// ---- attention ----

// e^x for x <= 0, within 2 units in the last place (range reduction and a polynomial, after Cephes' expf).
inline float exp_negative(float x) {
  x = std::max(x, -87.0f);
  float whole = rintf(x * 1.44269504088896341f);
  float rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * rest + 1.3981999507e-3f;
  p = p * rest + 8.3334519073e-3f;
  p = p * rest + 4.1665795894e-2f;
  p = p * rest + 1.6666665459e-1f;
  p = p * rest + 5.0000001201e-1f;
  p = p * rest * rest + rest + 1.0f;
  int32_t bits = (static_cast<int32_t>(whole) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return p * power;
}

constexpr Long kKeys = 128;  // keys looked at together

template <class T>
struct Call {
  const T *q, *k, *v;
  const uint8_t* mask;  // nonzero: may be read; null: everything
  const float* bias;    // null: none
  T* out;
  Long sources, beams, heads, kv_heads, length, keys, size;
  Long q_row, q_head, q_time, k_row, k_head, k_time, v_row, v_head, v_time;
  Long mask_row, mask_time, mask_key, bias_head, bias_time, bias_key;
  float scale;
};

// One key-value head of one source, for every query that reads it.
template <class T, class D>
void read_head(const Call<T>& c, Long source, Long kv, float* scores, float* mixed, float* most, float* total,
               T* queries) {
  Long group = c.heads / c.kv_heads, count = c.beams * c.length * group;
  auto place = [&](Long i, Long* row, Long* time, Long* head) {
    *head = kv * group + i % group;
    *time = i / group % c.length;
    *row = source * c.beams + i / (group * c.length);
  };
  for (Long i = 0; i < count; ++i) {
    Long row, time, head;
    place(i, &row, &time, &head);
    std::memcpy(queries + i * c.size, c.q + row * c.q_row + head * c.q_head + time * c.q_time, c.size * sizeof(T));
    most[i] = -std::numeric_limits<float>::infinity();
    total[i] = 0;
    std::fill(mixed + i * c.size, mixed + (i + 1) * c.size, 0.0f);
  }
  const T* k = c.k + source * c.k_row + kv * c.k_head;
  const T* v = c.v + source * c.v_row + kv * c.v_head;
  for (Long begin = 0; begin < c.keys; begin += kKeys) {
    Long width = std::min(kKeys, c.keys - begin);
    dots<D>(queries, count, c.size, k + begin * c.k_time, c.k_time, c.size, 0, width,
            [&](Long r, Long o, float sum) { scores[r * kKeys + o] = sum * c.scale; });
    for (Long i = 0; i < count; ++i) {
      Long row, time, head;
      place(i, &row, &time, &head);
      float* s = scores + i * kKeys;
      if (c.bias) {
        const float* b = c.bias + head * c.bias_head + time * c.bias_time + begin * c.bias_key;
        for (Long j = 0; j < width; ++j) s[j] += b[j * c.bias_key];
      }
      if (c.mask) {
        const uint8_t* m = c.mask + source * c.mask_row + time * c.mask_time + begin * c.mask_key;
        for (Long j = 0; j < width; ++j)
          if (!m[j * c.mask_key]) s[j] = -std::numeric_limits<float>::infinity();
      }
      float top = most[i];
#pragma omp simd reduction(max : top)
      for (Long j = 0; j < width; ++j) top = std::max(top, s[j]);
      float sum = 0, *acc = mixed + i * c.size;
      if (top == -std::numeric_limits<float>::infinity()) continue;  // nothing to read so far
      float keep = most[i] == top ? 1.0f : exp_negative(most[i] - top);
      if (keep != 1.0f)
        for (Long e = 0; e < c.size; ++e) acc[e] *= keep;
      for (Long j = 0; j < width; ++j)
        s[j] = s[j] == -std::numeric_limits<float>::infinity() ? 0.0f : exp_negative(s[j] - top);
#pragma omp simd reduction(+ : sum)
      for (Long j = 0; j < width; ++j) sum += s[j];
      total[i] = total[i] * keep + sum;
      most[i] = top;
      Long e = 0;
      for (; e + 64 <= c.size; e += 64) {
        Floats a0 = load16(acc + e), a1 = load16(acc + e + 16), a2 = load16(acc + e + 32), a3 = load16(acc + e + 48);
        const T* p = v + begin * c.v_time + e;
        for (Long j = 0; j < width; ++j, p += c.v_time) {
          a0 += s[j] * load16(p);
          a1 += s[j] * load16(p + 16);
          a2 += s[j] * load16(p + 32);
          a3 += s[j] * load16(p + 48);
        }
        std::memcpy(acc + e, &a0, 64);
        std::memcpy(acc + e + 16, &a1, 64);
        std::memcpy(acc + e + 32, &a2, 64);
        std::memcpy(acc + e + 48, &a3, 64);
      }
      for (; e + 16 <= c.size; e += 16) {
        Floats a = load16(acc + e);
        const T* p = v + begin * c.v_time + e;
        for (Long j = 0; j < width; ++j, p += c.v_time) a += s[j] * load16(p);
        std::memcpy(acc + e, &a, 64);
      }
      for (; e < c.size; ++e)
        for (Long j = 0; j < width; ++j) acc[e] += s[j] * to_float(v[(begin + j) * c.v_time + e]);
    }
  }
  for (Long i = 0; i < count; ++i) {  // out is [rows, length, heads, size], contiguous
    Long row, time, head;
    place(i, &row, &time, &head);
    T* out = c.out + ((row * c.length + time) * c.heads + head) * c.size;
    float inverse = total[i] > 0 ? 1.0f / total[i] : 0.0f;  // a query that may read nothing gets zeros
    for (Long e = 0; e < c.size; ++e) store(out + e, mixed[i * c.size + e] * inverse);
  }
}

template <class T, class D>
void attention(const Call<T>& c, int threads) {
  Long count = c.beams * c.length * (c.heads / c.kv_heads), tasks = c.sources * c.kv_heads;
#pragma omp parallel num_threads(threads)
  {
    std::unique_ptr<float[]> scores(new float[count * kKeys]), mixed(new float[count * c.size]);
    std::unique_ptr<float[]> most(new float[count]), total(new float[count]);
    std::unique_ptr<T[]> queries(new T[count * c.size]);
#pragma omp for schedule(dynamic, 1)
    for (Long task = 0; task < tasks; ++task)
      read_head<T, D>(c, task / c.kv_heads, task % c.kv_heads, scores.get(), mixed.get(), most.get(), total.get(),
                      queries.get());
  }
}

template <class T>
Call<T> make_call(const void* q, const void* k, const void* v, const uint8_t* mask, const float* bias, void* out,
                  const Long* s, float scale) {
  return Call<T>{static_cast<const T*>(q), static_cast<const T*>(k), static_cast<const T*>(v), mask, bias,
                 static_cast<T*>(out), s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12],
                 s[13], s[14], s[15], s[16], s[17], s[18], s[19], s[20], s[21], scale};
}

}  // namespace

extern "C" {

// Bit 0: AVX-512; bit 1: bf16 dot products; bit 2: int8 dot products.
int conjoin_features() {
  int found = 0;
#if defined(HAS_AVX512)
  found |= 1;
#endif
#if defined(HAS_BF16_DOT)
  found |= 2;
#endif
#if defined(HAS_INT8_DOT)
  found |= 4;
#endif
  return found;
}

// y[rows, m] = x[rows, n] w[m, n]^T + bias[m]; y and w contiguous, x with unit stride along n.
void conjoin_linear_f32(const float* x, Long rows, Long x_stride, const float* w, const float* bias, float* y, Long n,
                        Long m, int threads) {
  linear<Wide<float>, float>(x, rows, x_stride, w, bias, y, n, m, threads);
}

void conjoin_linear_bf16(const bf16* x, Long rows, Long x_stride, const bf16* w, const bf16* bias, bf16* y, Long n,
                         Long m, int threads) {
  linear<Brain, bf16>(x, rows, x_stride, w, bias, y, n, m, threads);
}

#if defined(HAS_INT8_DOT)
// w[m, n] is int8 with a scale per output; each row of x is quantised on its own; w_sums[m] are w's row sums.
void conjoin_linear_int8_f32(const float* x, Long rows, Long x_stride, const int8_t* w, const float* scales,
                             const int32_t* w_sums, const float* bias, float* y, Long n, Long m, int threads) {
  linear_int8<float>(x, rows, x_stride, w, scales, w_sums, bias, y, n, m, threads);
}

void conjoin_linear_int8_bf16(const bf16* x, Long rows, Long x_stride, const int8_t* w, const float* scales,
                              const int32_t* w_sums, const bf16* bias, bf16* y, Long n, Long m, int threads) {
  linear_int8<bf16>(x, rows, x_stride, w, scales, w_sums, bias, y, n, m, threads);
}
#endif

// sizes: sources, beams, heads, kv_heads, length, keys, head size; then the strides in the order of Call.
void conjoin_attention_f32(const void* q, const void* k, const void* v, const uint8_t* mask, const float* bias,
                           void* out, const Long* sizes, float scale, int threads) {
  attention<float, Wide<float>>(make_call<float>(q, k, v, mask, bias, out, sizes, scale), threads);
}

void conjoin_attention_bf16(const void* q, const void* k, const void* v, const uint8_t* mask, const float* bias,
                            void* out, const Long* sizes, float scale, int threads) {
  attention<bf16, Brain>(make_call<bf16>(q, k, v, mask, bias, out, sizes, scale), threads);
}
}
