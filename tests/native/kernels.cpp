// The kernels of one instruction set against plain loops, without a framework. Prints what differs; returns 1 if anything
// does. Tests of the backends check the same kernels through PyTorch, where there is a PyTorch for the processor.

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <random>

#include "permission.h"
#include "pointwise.h"
#include "rows.h"
#include "softmax.h"
#include "tiles.h"

namespace {

int failures = 0;

void check(bool right, const char* what, Long a = 0, Long b = 0, Long c = 0) {
  if (right) return;
  if (++failures < 20) std::printf("wrong: %s (%ld, %ld, %ld)\n", what, static_cast<long>(a), static_cast<long>(b), static_cast<long>(c));
}

bool close(double found, double expected, double near) {
  return std::isnan(expected) ? std::isnan(found) : std::fabs(found - expected) <= near;
}

std::mt19937 generator(1);

template <class T>
T drawn() {
  if constexpr (sizeof(T) == 4) return std::normal_distribution<float>()(generator);
  if constexpr (std::is_same<T, bf16>::value) return narrow(std::normal_distribution<float>()(generator));
  if constexpr (std::is_same<T, int8_t>::value) return static_cast<T>(std::uniform_int_distribution<int>(-128, 127)(generator));
  if constexpr (std::is_same<T, uint8_t>::value) return static_cast<T>(std::uniform_int_distribution<int>(1, 255)(generator));
  if constexpr (std::is_same<T, int16_t>::value) return static_cast<T>(std::uniform_int_distribution<int>(-9999, 9999)(generator));
}

template <class T>
std::vector<T> numbers(Long count) {
  std::vector<T> values(count);
  for (T& value : values) value = drawn<T>();
  return values;
}

double value_of(float x, int) { return x; }
double value_of(bf16 x, int) { return widen(x); }
double value_of(int8_t x, int) { return x; }
double value_of(int16_t x, int) { return x; }
double value_of(uint8_t x, int zero) { return x - (128 - zero); }

// Memory whose end is the end of a page, behind which nothing can be read.
template <class T>
class Fenced {
 public:
  explicit Fenced(const std::vector<T>& values) {
    const Long page = sysconf(_SC_PAGESIZE), bytes = values.size() * sizeof(T), all = (bytes + page - 1) / page * page;
    pages_ = static_cast<char*>(mmap(nullptr, all + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    size_ = all + page;
    mprotect(pages_ + all, page, PROT_NONE);
    start_ = reinterpret_cast<T*>(pages_ + all - bytes);
    std::memcpy(start_, values.data(), bytes);
  }
  Fenced(const Fenced&) = delete;
  ~Fenced() { munmap(pages_, size_); }
  const T* data() const { return start_; }

 private:
  char* pages_;
  size_t size_;
  T* start_;
};

template <class T>
T not_a_number() {
  if constexpr (std::is_same<T, float>::value) return NAN;
  if constexpr (std::is_same<T, bf16>::value) return narrow(NAN);
  return std::numeric_limits<T>::max();
}

// Products of matrices whose rows are `gap` numbers apart: right for every number of rows, and the same bits in each row.
// What lies between and behind rows is not read. In `odd` ones some numbers are infinite or NaN, and reach their sums only.
template <class D>
void check_matrices(const char* name, int zero, Long n, Long m, const std::vector<Long>& heights, Long gap, bool odd) {
  const Long most = heights.back(), stride = n + gap;
  auto x = numbers<typename D::X>(most * stride);
  auto w = numbers<typename D::W>(m * stride);
  if (D::exact) std::fill(w.begin(), w.begin() + n, static_cast<typename D::W>(-128));
  if (D::exact) std::fill(x.begin(), x.begin() + n, std::numeric_limits<typename D::X>::max());
  if (std::is_same<typename D::X, int16_t>::value) std::fill(x.begin(), x.begin() + n, static_cast<typename D::X>(9999));
  if constexpr (!D::exact) {
    if (odd) {
      x[n / 2] = not_a_number<typename D::X>(), store(&x[(most - 1) * stride + n - 1], INFINITY);
      w[(m - 1) * stride] = not_a_number<typename D::W>(), store(&w[(m / 2) * stride + n - 1], -INFINITY);
    }
  }
  for (Long k = n; k < stride; ++k) {
    for (Long r = 0; r < most; ++r) x[r * stride + k] = not_a_number<typename D::X>();
    for (Long o = 0; o < m; ++o) w[o * stride + k] = not_a_number<typename D::W>();
  }
  x.resize(x.size() - gap), w.resize(w.size() - gap);
  Fenced<typename D::X> fenced_x(x);
  Fenced<typename D::W> fenced_w(w);
  std::vector<double> expected(most * m);
  for (Long i = 0; i < most * m; ++i)
    for (Long k = 0; k < n; ++k) expected[i] += value_of(x[i / m * stride + k], zero) * value_of(w[i % m * stride + k], 0);
  std::vector<typename D::Sum> whole;
  for (auto rows = heights.rbegin(); rows != heights.rend(); ++rows) {
    std::vector<typename D::Sum> found(*rows * m);
    dots<D>(fenced_x.data(), *rows, stride, fenced_w.data(), stride, n, 0, m, [&](Long r, Long o, typename D::Sum sum) { found[r * m + o] = sum; });
    if (whole.empty()) whole = found;
    for (Long i = 0; i < *rows * m; ++i) {
      check(found[i] == expected[i] || close(found[i], expected[i], D::exact ? 0 : 1e-5 * n), name, n, m, *rows);
      check(!std::memcmp(&found[i], &whole[i], sizeof(found[i])), "bits of a row in batches", n, m, *rows);
    }
    const Long first = m / 3, last = m - m / 4;  // a thread's share
    dots<D>(fenced_x.data(), *rows, stride, fenced_w.data(), stride, n, first, last, [&](Long r, Long o, typename D::Sum sum) {
      check(o >= first && o < last && !std::memcmp(&sum, &whole[r * m + o], sizeof(sum)), "bits of a share", n, m, *rows);
      found[r * m + o] = 0;
    });
    for (Long i = 0; i < *rows * m; ++i)
      check(i % m < first || i % m >= last || found[i] == 0, "a share is whole", n, m, *rows);
  }
}

template <class D>
void check_dots(const char* name, int zero) {
  std::vector<Long> heights;
  for (Long rows = 1; rows <= 20; ++rows) heights.push_back(rows);
  for (Long rows : {31, 32, 33, 40, 48, 49}) heights.push_back(rows);
  for (Long n : {1, 7, 16, 33, 64, 100, 257, 770})
    for (Long m : {1, 4, 13, 70, 130}) check_matrices<D>(name, zero, n, m, heights, m % 3, n == 100);
  if (std::is_same<typename D::X, int16_t>::value) return;  // sums of more products do not fit
  check_matrices<D>(name, zero, 4100, 45, {1, 7, 17, 97, 260}, 0, false);  // larger than what is held in a cache
}

void check_vectors() {
  float x[kWidth], out[kWidth];
  bf16 half[kWidth];
  const float odd[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-40f, 3.3e38f, 1.00390625f, 1.01171875f};
  for (int i = 0; i < kWidth; ++i) x[i] = odd[i % 9];
  store(half, load(x));
  for (int i = 0; i < kWidth; ++i) {
    bool tiny = std::fabs(x[i]) < 1e-38f;  // an instruction of AVX-512 flushes these
    check(tiny || std::isnan(x[i]) ? std::isnan(widen(half[i])) == std::isnan(x[i]) : half[i] == narrow(x[i]), "narrow", i);
  }
  for (Long count = -1; count <= kWidth + 1; ++count) {
    Chosen some = first_of(count);
    std::vector<float> few(x, x + std::min<Long>(kWidth, std::max<Long>(count, 0)));
    store(out, load_chosen(few.data(), some, 5.0f));
    for (int i = 0; i < kWidth; ++i) check(close(out[i], i < count ? x[i] : 5.0, 0) || std::isinf(out[i]), "load_chosen", count, i);
    std::fill(out, out + kWidth, 7.0f);
    store_chosen(out, Floats{} + 3.0f, some);
    for (int i = 0; i < kWidth; ++i) check(out[i] == (i < count ? 3.0f : 7.0f), "store_chosen", count, i);
    std::fill(half, half + kWidth, bf16{1});
    store_chosen(half, Floats{} + 3.0f, some);
    for (int i = 0; i < kWidth; ++i) check(half[i] == (i < count ? narrow(3.0f) : bf16{1}), "store_chosen bf16", count, i);
    store(out, choose(except(every(), some), Floats{} + 1.0f, Floats{}));
    for (int i = 0; i < kWidth; ++i) check(out[i] == (i >= count), "except", count, i);
  }
  uint16_t draws[kWidth];
  uint8_t bytes[kWidth];
  for (int i = 0; i < kWidth; ++i) draws[i] = static_cast<uint16_t>(i * 21000), bytes[i] = static_cast<uint8_t>(i % 3 * 100);
  store(out, choose(below(draws, 42000), Floats{} + 1.0f, Floats{}));
  for (int i = 0; i < kWidth; ++i) check(out[i] == (draws[i] < 42000), "below", i);
  store(out, choose(nonzero(bytes, first_of(kWidth - 1)), Floats{} + 1.0f, Floats{}));
  for (int i = 0; i < kWidth; ++i) check(out[i] == (i < kWidth - 1 && bytes[i] != 0), "nonzero", i);
  for (float start = 0; start > -110; start -= 0.37f) {
    for (int i = 0; i < kWidth; ++i) x[i] = start - 0.01f * i;
    store(out, exp_negative(load(x)));
    for (int i = 0; i < kWidth; ++i) check(close(out[i], std::exp(double{x[i]}), 3e-7 * std::exp(double{x[i]}) + 3e-45), "exp", i);
    double total = 0;
    for (float each : x) total += each;
    check(close(sum(load(x)), total, 1e-4) && largest(load(x)) == x[0], "sum and largest");
  }
}

void check_random_numbers() {
  const uint64_t key = 0x123456789abcdef0ull, row = 0xfedcba9876543210ull;
  uint32_t drawn[4][16];
  draw(key, row, 3, reinterpret_cast<uint16_t*>(drawn));
  for (uint32_t i = 0; i < 16; ++i) {
    uint32_t c[4] = {48 + i, static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32), 0};
    uint32_t k[2] = {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
    for (int round = 0; round < 10; ++round, k[0] += 0x9E3779B9u, k[1] += 0xBB67AE85u) {
      uint64_t one = 0xD2511F53ull * c[0], two = 0xCD9E8D57ull * c[2];
      const uint32_t next[4] = {static_cast<uint32_t>(two >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(two),
                                static_cast<uint32_t>(one >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(one)};
      std::copy(next, next + 4, c);
    }
    for (int w = 0; w < 4; ++w) check(drawn[w][i] == c[w], "random numbers", w, i);
  }
}

void check_products() {
  for (Long rows : {1, 6, 13}) {
    for (Long columns : {1, 16, 40, 64, 100}) {
      const Long depth = 37, wide = rounded_up(columns, kPanel) + 16;
      auto a = numbers<float>((rows + kTileRows) * depth), b = numbers<float>(depth * columns);
      Workspace& space = Workspace::own();
      Panels panels = copy_panels(b.data(), columns, depth, columns, space.take(depth, rounded_up(columns, kPanel)));
      float* c = space.take(rows, wide);
      for (bool add : {false, true}) product({a.data(), depth, 1}, rows, panels, 0, depth, 0, columns, c, wide, add);
      for (Long r = 0; r < rows; ++r)
        for (Long i = 0; i < columns; ++i) {
          double sum = 0;
          for (Long k = 0; k < depth; ++k) sum += 2.0 * a[r * depth + k] * b[k * columns + i];
          check(close(c[r * wide + i], sum, 1e-4), "product", rows, columns);
        }
    }
  }
}

template <class T>
void check_softmax() {
  const Long keys = 150, first = 3, last = 140;
  auto scores = numbers<float>(keys + kPanel), bias = numbers<float>(keys);
  std::vector<uint8_t> mask(keys);
  for (Long j = 0; j < keys; ++j) mask[j] = j % 5 != 0;
  std::vector<T> weights(keys);
  std::vector<double> expected(keys);
  double total = 0;
  for (Long j = 0; j < keys; ++j) {
    expected[j] = j >= first && j < last && mask[j] ? std::exp(0.5 * scores[j] + bias[j]) : 0.0;
    total += expected[j];
  }
  const Dropout dropout{77, 50000};
  auto x = scores;
  soften_row({x.data(), 0, keys, {first, last}, mask.data(), bias.data()}, 0.5f, dropout, 9, weights.data());
  uint16_t draws[2][kDraws];
  for (int block : {0, 1}) draw(dropout.seed, 9, block, draws[block]);
  double part = 0, near = sizeof(T) == 4 ? 1e-6 : 4e-3;
  auto grad = numbers<float>(keys + kPanel);
  auto read = grad, out = grad;
  for (Long j = 0; j < keys; ++j) {
    const double weight = expected[j] / total, kept = draws[j / kDraws][j % kDraws] < 50000;
    check(close(to_float(weights[j]), kept ? weight : -weight, near), "softmax", j);
    check(close(x[j], kept * weight * 65536 / 50000, 1e-6), "dropout", j);
    part += grad[j] * std::max(0.0f, to_float(weights[j])) * dropout.growth();
  }
  soften_row_backward(weights.data(), out.data(), read.data(), 0, keys, dropout.growth());
  for (Long j = 0; j < keys; ++j) {
    const double weight = to_float(weights[j]), kept = std::max(0.0, weight) * dropout.growth();
    check(close(read[j], kept, 1e-6) && close(out[j], grad[j] * kept - part * std::fabs(weight), 1e-5), "softmax backward", j);
  }
}

// Norms, gates and rotary positions, and the gradients of a norm and a gate by differences.
template <class T>
void check_pointwise(double near) {
  const Long rows = 3, size = 45, half = 10;
  auto wide = numbers<float>(rows * size), up = numbers<float>(rows * size), weight = numbers<float>(size);
  std::vector<T> x(rows * size), u(rows * size), y(rows * size), dx(rows * size), du(rows * size), ones(rows * size);
  for (Long i = 0; i < rows * size; ++i) store(&x[i], wide[i]), store(&u[i], up[i]), store(&ones[i], 1.0f);
  std::vector<float> parts(size);
  rms_norm(x.data(), weight.data(), y.data(), rows, size, 0.1f, 0.5f, 1);
  rms_norm_backward(ones.data(), x.data(), weight.data(), dx.data(), parts.data(), rows, rows, size, 0.1f, 0.5f, 1);
  std::vector<double> by_weight(size);
  for (Long r = 0; r < rows; ++r) {
    double squares = 0, along = 0;
    for (Long i = 0; i < size; ++i) squares += std::pow(to_float(x[r * size + i]), 2);
    const double inverse = 1 / std::sqrt(squares / size + 0.1f);
    for (Long i = 0; i < size; ++i) along += (weight[i] + 0.5) * to_float(x[r * size + i]) / size;
    for (Long i = 0; i < size; ++i) {
      const Long at = r * size + i;
      const double own = to_float(x[at]), scale = weight[i] + 0.5;
      by_weight[i] += own * inverse;
      check(close(to_float(y[at]), own * inverse * scale, near), "norm", r, i);
      check(close(to_float(dx[at]), (scale - own * along * inverse * inverse) * inverse, near), "norm backward", r, i);
    }
  }
  for (Long i = 0; i < size; ++i) check(close(parts[i], by_weight[i], 1e-5), "gradient of a norm's weight", i);
  for (Long kind = 0; kind < 3; ++kind) {
    const auto value = [kind](double g) {
      if (kind == 0) return g * 0.5 * (1 + std::erf(g / std::sqrt(2.0)));
      if (kind == 1) return g * 0.5 * (1 + std::tanh(std::sqrt(2 / 3.14159265358979) * (g + 0.044715 * g * g * g)));
      return g / (1 + std::exp(-g));
    };
    with_activation(kind, [&](auto a) {
      gated<decltype(a)>(x.data(), u.data(), y.data(), rows * size, 1);
      gated_backward<decltype(a)>(ones.data(), x.data(), u.data(), dx.data(), du.data(), rows * size, 1);
    });
    for (Long i = 0; i < rows * size; ++i) {
      const double g = to_float(x[i]), other = to_float(u[i]), slope = (value(g + 1e-4) - value(g - 1e-4)) / 2e-4;
      check(close(to_float(y[i]), value(g) * other, near), "gate", kind, i);
      check(close(to_float(dx[i]), slope * other, near), "gradient of a gate", kind, i);
      check(close(to_float(du[i]), value(g), near), "gradient of what a gate scales", kind, i);
    }
  }
  std::vector<float> cosines(rows * 2 * half), sines(rows * 2 * half);
  for (Long i = 0; i < rows * 2 * half; ++i) {
    const double angle = 0.3 * (i / (2 * half)) + 0.7 * (i % half);
    cosines[i] = std::cos(angle), sines[i] = std::sin(angle);
  }
  const Turning turning{1, 1, rows, size, 2 * half, 0, 0, size, 0, 0, size, 0};
  rotate(turning, x.data(), y.data(), cosines.data(), sines.data(), 1.0f, 1);
  rotate(turning, y.data(), dx.data(), cosines.data(), sines.data(), -1.0f, 1);
  for (Long i = 0; i < rows * size; ++i) {
    const Long in_head = i % size, angle = i / size * 2 * half + in_head;
    const double own = to_float(x[i]);
    double expected = own;
    if (in_head < half) expected = own * cosines[angle] - to_float(x[i + half]) * sines[angle];
    else if (in_head < 2 * half) expected = own * cosines[angle] + to_float(x[i - half]) * sines[angle];
    check(close(to_float(y[i]), expected, near), "rotation", i);
    check(close(to_float(dx[i]), own, 2 * near), "rotation back", i);
  }
}

// Scores of queries, and sums of weighted values.
template <class T>
void check_rows(double near) {
  const Long count = 5, size = 72, width = 21, bytes = size + 4;
  auto q = numbers<float>(count * size), k = numbers<float>(width * size), s = numbers<float>(count * kKeys);
  std::vector<T> rows(width * bytes);
  std::vector<typename Rows<T>::Query> queries(count * Rows<T>::query_size(size));
  std::vector<typename Rows<T>::Handed> handed(count * size);
  for (Long j = 0; j < width; ++j) Rows<T>::write(&rows[j * bytes], &k[j * size], size);
  float scales[count], row_scales[kKeys];
  for (Long i = 0; i < count * size; ++i) store(&handed[i], q[i]);
  for (Long r = 0; r < count; ++r) scales[r] = Rows<T>::take(&handed[r * size], size, &queries[r * Rows<T>::query_size(size)]);
  std::vector<float> found(count * kKeys), mixed(count * size);
  Rows<T>::scores(queries.data(), scales, count, rows.data(), bytes, size, width, found.data());
  Rows<T>::scales(rows.data(), bytes, size, width, row_scales);
  auto weights = s;
  for (Long r = 0; r < count; ++r) Rows<T>::weigh(&weights[r * kKeys], row_scales, width);
  mix<4>(weights.data(), rows.data(), bytes, width, size, mixed.data());
  mix<1>(&weights[4 * kKeys], rows.data(), bytes, width, size, &mixed[4 * size]);
  for (Long r = 0; r < count; ++r) {
    for (Long j = 0; j < width; ++j) {
      double sum = 0;
      for (Long e = 0; e < size; ++e) sum += q[r * size + e] * k[j * size + e];
      check(close(found[r * kKeys + j], sum, near), "scores", r, j, sizeof(T));
    }
    for (Long e = 0; e < size; ++e) {
      double sum = 0;
      for (Long j = 0; j < width; ++j) sum += s[r * kKeys + j] * k[j * size + e];
      check(close(mixed[r * size + e], sum, near), "mixed values", r, e, sizeof(T));
    }
  }
}

}  // namespace

int main() {
#if defined(HAS_AMX)
  check(may_use_tiles(), "permission to use tiles");
#endif
  check_dots<Wide<float>>("float32", 0);
  check_dots<Brain>("bfloat16", 0);
  check_dots<Bytes>("int8", Bytes::zero);
  check_dots<Widened<int16_t>>("int16", 0);
  check_vectors();
  check_random_numbers();
  check_products();
  check_softmax<float>();
  check_softmax<bf16>();
  check_pointwise<float>(1e-5);
  check_pointwise<bf16>(0.06);
  check_rows<float>(1e-4);
  check_rows<bf16>(0.2);
  check_rows<int8_t>(0.5);
  if (!failures) std::puts("right");
  return failures ? 1 : 0;
}
