// GELU of x + bias in its tanh form, its gradient, and the bias gradient's partial sums.
#pragma once

#include "ops.hpp"
#include "simd.hpp"

namespace pygpt::cpu {
namespace {

constexpr float kTwoSqrtTwoOverPi = 1.59576912f;
constexpr float kCubic = 0.044715f;

// s = ½·(1 + tanh u) = σ(2u) and 1 - s, for u = √(2/π)·(z + kCubic·z³); neither by a subtraction.
struct Shares {
    Floats passed, held;
};

inline Shares tanh_shares(Floats z) {
    const Floats t = z * ((z * z) * (kTwoSqrtTwoOverPi * kCubic) + kTwoSqrtTwoOverPi);
    const Floats small = exp_nonpositive(t < 0.0f ? t : -t);
    const Floats large_share = 1.0f / (small + 1.0f);
    const Floats small_share = small * large_share;
    return {t < 0.0f ? small_share : large_share, t < 0.0f ? large_share : small_share};
}

// Behind ±20 the shares are 0 and 1 in fp32, and z³ would overflow.
inline Floats clamp_to_20(Floats z) {
    z = z > 20.0f ? broadcast(20.0f) : z;
    return z < -20.0f ? broadcast(-20.0f) : z;
}

inline Floats gelu_of(Floats z) { return z * tanh_shares(clamp_to_20(z)).passed; }

inline Floats gelu_slope(Floats z) {
    z = clamp_to_20(z);
    const Shares s = tanh_shares(z);
    const Floats twice_du = (z * z) * (3 * kTwoSqrtTwoOverPi * kCubic) + kTwoSqrtTwoOverPi;
    return s.passed + z * s.passed * s.held * twice_du;
}

inline Pair gelu_of(Pair z) { return {gelu_of(z.first), gelu_of(z.second)}; }
inline Pair gelu_slope(Pair z) { return {gelu_slope(z.first), gelu_slope(z.second)}; }

template <typename T>
void gelu_rows_of(const GeluInput& in, T* y, std::int64_t begin, std::int64_t end) {
    const T* const bias = static_cast<const T*>(in.bias);
    for (std::int64_t row = begin; row < end; ++row) {
        const T* const x = static_cast<const T*>(in.x) + row * in.width;
        T* const to = y + row * in.width;
        std::int64_t i = 0;
        for (; i + kPair <= in.width; i += kPair) {
            store_pair(to + i, gelu_of(load_pair(x + i) + load_pair(bias + i)));
        }
        if (const std::int64_t rest = in.width - i) {
            const Pair z = load_partial(x + i, rest, 0.0f) + load_partial(bias + i, rest, 0.0f);
            store_partial(to + i, gelu_of(z), rest);
        }
    }
}

template <typename T>
void gelu_backward_rows_of(const GeluInput& in, const T* dy, T* dx, float* partial,
                           std::int64_t begin, std::int64_t end) {
    const T* const bias = static_cast<const T*>(in.bias);
    for (std::int64_t row = begin; row < end; ++row) {
        const T* const x = static_cast<const T*>(in.x) + row * in.width;
        const T* const upstream = dy + row * in.width;
        T* const to = dx + row * in.width;
        const auto add = [&](std::int64_t i, Pair dz) {
            if (partial) store_pair(partial + i, load_pair(partial + i) + dz);
        };
        std::int64_t i = 0;
        for (; i + kPair <= in.width; i += kPair) {
            const Pair z = load_pair(x + i) + load_pair(bias + i);
            const Pair dz = load_pair(upstream + i) * gelu_slope(z);
            store_pair(to + i, dz);
            add(i, dz);
        }
        if (const std::int64_t rest = in.width - i) {
            const Pair z = load_partial(x + i, rest, 0.0f) + load_partial(bias + i, rest, 0.0f);
            const Pair dz = load_partial(upstream + i, rest, 0.0f) * gelu_slope(z);
            store_partial(to + i, dz, rest);
            add(i, dz);
        }
    }
}

void gelu_rows(const GeluInput& in, void* y, std::int64_t begin, std::int64_t end) {
    if (in.bfloat16) {
        gelu_rows_of(in, static_cast<BFloat16*>(y), begin, end);
    } else {
        gelu_rows_of(in, static_cast<float*>(y), begin, end);
    }
}

void gelu_backward_rows(const GeluInput& in, const void* dy, void* dx, float* partial,
                        std::int64_t begin, std::int64_t end) {
    if (in.bfloat16) {
        gelu_backward_rows_of(in, static_cast<const BFloat16*>(dy), static_cast<BFloat16*>(dx),
                              partial, begin, end);
    } else {
        gelu_backward_rows_of(in, static_cast<const float*>(dy), static_cast<float*>(dx), partial,
                              begin, end);
    }
}

std::int64_t partial_size(std::int64_t width) { return (width + kPair - 1) / kPair * kPair; }

void sum_partials(const float* partials, std::int64_t count, std::int64_t width, bool bfloat16,
                  float* sum) {
    const std::int64_t size = partial_size(width);
    for (std::int64_t i = 0; i < width; ++i) {
        // Where store_pair put element i: even and odd apart for bf16, in order for fp32.
        const std::int64_t offset = i % kPair;
        const std::int64_t place = bfloat16 ? offset % 2 * kLanes + offset / 2 : offset;
        double total = 0;
        for (std::int64_t part = 0; part < count; ++part) {
            total += partials[part * size + i - offset + place];
        }
        sum[i] = static_cast<float>(total);
    }
}

}  // namespace
}  // namespace pygpt::cpu
