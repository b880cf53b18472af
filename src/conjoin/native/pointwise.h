// Training's functions of single vectors, and their gradients: RMSNorm, gated activations, rotary positions. Each reads
// and writes memory once, computes in float32 and rounds its result once.

#pragma once

#include "threads.h"
#include "vectors.h"

namespace {

constexpr Long kTaskRows = 32;        // vectors of a task
constexpr Long kTaskNumbers = 16384;  // numbers of a task, where they are no vectors

// work(i, lanes) for every register of `count` numbers.
template <class Work>
inline void for_registers(Long count, const Work& work) {
  for (Long i = 0; i < count; i += kWidth) work(i, first_of(count - i));
}

// work(first, last) of parts of `count` things.
template <class Work>
void for_parts(Long count, Long part, int threads, const Work& work) {
  parallel_for(threads, (count + part - 1) / part, [&](Long task) {
    work(task * part, std::min((task + 1) * part, count));
  });
}

// 1 / the root mean square of a vector.
template <class T>
float inverse_root(const T* x, Long size, float eps) {
  Floats squares{};
  for_registers(size, [&](Long i, Chosen lanes) {
    Floats some = load_chosen(x + i, lanes, 0.0f);
    squares += some * some;
  });
  return 1.0f / std::sqrt(sum(squares) / static_cast<float>(size) + eps);
}

// y = x / root mean square of x * (weight + offset), for every row.
template <class T, class U>
void rms_norm(const T* x, const float* weight, U* y, Long rows, Long size, float eps, float offset, int threads) {
  for_parts(rows, kTaskRows, threads, [&](Long first, Long last) {
    for (Long r = first; r < last; ++r) {
      const T* from = x + r * size;
      U* to = y + r * size;
      float inverse = inverse_root(from, size, eps);
      for_registers(size, [&](Long i, Chosen lanes) {
        Floats scale = load_chosen(weight + i, lanes, 0.0f) + offset;
        store_chosen(to + i, load_chosen(from + i, lanes, 0.0f) * inverse * scale, lanes);
      });
    }
  });
}

// Gradients of rms_norm by x and, in a row of `parts` per `part_rows` rows, by the weight (null: not needed).
template <class T, class U>
void rms_norm_backward(const U* dy, const T* x, const float* weight, T* dx, float* parts, Long part_rows, Long rows,
                       Long size, float eps, float offset, int threads) {
  for_parts(rows, part_rows, threads, [&](Long first, Long last) {
    float* part = parts ? parts + first / part_rows * size : nullptr;
    if (part) std::fill(part, part + size, 0.0f);
    for (Long r = first; r < last; ++r) {
      const T* from = x + r * size;
      const U* out = dy + r * size;
      T* to = dx + r * size;
      float inverse = inverse_root(from, size, eps);
      Floats products{};
      for_registers(size, [&](Long i, Chosen lanes) {
        Floats scale = load_chosen(weight + i, lanes, 0.0f) + offset;
        products += load_chosen(out + i, lanes, 0.0f) * scale * load_chosen(from + i, lanes, 0.0f);
      });
      float along = sum(products) / static_cast<float>(size) * inverse * inverse;
      for_registers(size, [&](Long i, Chosen lanes) {
        Floats d = load_chosen(out + i, lanes, 0.0f), own = load_chosen(from + i, lanes, 0.0f);
        Floats scale = load_chosen(weight + i, lanes, 0.0f) + offset;
        store_chosen(to + i, (d * scale - own * along) * inverse, lanes);
        if (part) store_chosen(part + i, load_chosen(part + i, lanes, 0.0f) + d * own * inverse, lanes);
      });
    }
  });
}

// Activations: their value, and its derivative.
struct Sloped {
  Floats value, slope;
};

struct Silu {
  static Sloped at(Floats x) {
    Floats small = exp_negative(-size_of(x)), share = (x >= 0.0f ? Floats{} + 1.0f : small) / (small + 1.0f);
    return {x * share, share * (1.0f + x * (1.0f - share))};
  }
};

struct GeluTanh {
  static Sloped at(Floats x) {
    constexpr float root = 0.79788456080286536f, cubic = 0.044715f;  // sqrt(2 / pi)
    Floats inner = root * (x + cubic * x * x * x);
    Floats small = exp_negative(-2.0f * size_of(inner)), height = (1.0f - small) / (1.0f + small);
    Floats t = inner < 0.0f ? -height : height, half = 0.5f * (1.0f + t);
    return {x * half, half + 0.5f * x * (1.0f - t * t) * root * (1.0f + 3.0f * cubic * x * x)};
  }
};

struct Gelu {
  static Sloped at(Floats x) {
    constexpr float root = 0.70710678118654752f, density = 0.39894228040143268f;  // sqrt(1 / 2), 1 / sqrt(2 pi)
    Floats share = 0.5f * (1.0f + erf_ratio(x * root));
    return {x * share, share + x * density * exp_negative(-0.5f * x * x)};
  }
};

// y = activation(gate) * up.
template <class A, class T>
void gated(const T* gate, const T* up, T* y, Long count, int threads) {
  for_parts(count, kTaskNumbers, threads, [&](Long first, Long last) {
    for_registers(last - first, [&](Long i, Chosen lanes) {
      Long at = first + i;
      Floats active = A::at(load_chosen(gate + at, lanes, 0.0f)).value;
      store_chosen(y + at, active * load_chosen(up + at, lanes, 0.0f), lanes);
    });
  });
}

template <class A, class T>
void gated_backward(const T* dy, const T* gate, const T* up, T* dgate, T* dup, Long count, int threads) {
  for_parts(count, kTaskNumbers, threads, [&](Long first, Long last) {
    for_registers(last - first, [&](Long i, Chosen lanes) {
      Long at = first + i;
      Floats d = load_chosen(dy + at, lanes, 0.0f);
      Sloped active = A::at(load_chosen(gate + at, lanes, 0.0f));
      store_chosen(dgate + at, d * active.slope * load_chosen(up + at, lanes, 0.0f), lanes);
      store_chosen(dup + at, d * active.value, lanes);
    });
  });
}

// Run work(activation) of the number by which torch/cpu/native/pointwise.py knows it.
template <class Work>
void with_activation(Long kind, const Work& work) {
  if (kind == 0) return work(Gelu{});
  if (kind == 1) return work(GeluTanh{});
  work(Silu{});
}

// Heads whose leading `turned` dimensions are rotated: element (row, head, token, i) of x is at row * x_row + head * x_head +
// token * x_token + i, likewise of y. cos and sin: [rows or 1, tokens, turned].
struct Turning {
  Long rows, heads, tokens, size, turned;
  Long x_row, x_head, x_token, y_row, y_head, y_token, angle_row;
};

// Rotate by the angles, or back by them where `sign` is -1, which is the gradient.
template <class T>
void rotate(const Turning& c, const T* x, T* y, const float* cos, const float* sin, float sign, int threads) {
  const Long half = c.turned / 2;
  for_parts(c.rows * c.tokens, kTaskRows, threads, [&](Long first, Long last) {
    for (Long place = first; place < last; ++place) {
      Long row = place / c.tokens, token = place % c.tokens, angle = row * c.angle_row + token * c.turned;
      for (Long head = 0; head < c.heads; ++head) {
        const T* from = x + row * c.x_row + head * c.x_head + token * c.x_token;
        T* to = y + row * c.y_row + head * c.y_head + token * c.y_token;
        for_registers(half, [&](Long i, Chosen lanes) {
          Floats one = load_chosen(from + i, lanes, 0.0f), other = load_chosen(from + half + i, lanes, 0.0f);
          Floats along = load_chosen(cos + angle + i, lanes, 0.0f), across = load_chosen(sin + angle + i, lanes, 0.0f) * sign;
          store_chosen(to + i, one * along - other * across, lanes);
          store_chosen(to + half + i, other * along + one * across, lanes);
        });
        std::copy(from + c.turned, from + c.size, to + c.turned);
      }
    }
  });
}

}  // namespace
