// A few rows of activations times a weight matrix, whose weights are read once: y = x·Wᵀ + bias.
#pragma once

#include "dispatch.hpp"
#include "gelu.hpp"
#include "simd.hpp"

namespace pygpt::cpu {
namespace {

// Two vectors of weights in fp32. Those of bf16 come as load_pair gives them, even and odd apart;
// arrange() puts the activations into the same order.
inline Pair load_weights(const float* from) { return load_pair(from); }
inline Pair load_weights(const BFloat16* from) { return load_pair(from); }
inline Pair load_weights(const std::int8_t* from) {
    Bytes low, high;
    memcpy(&low, from, sizeof low);
    memcpy(&high, from + kLanes, sizeof high);
    return {__builtin_convertvector(low, Floats), __builtin_convertvector(high, Floats)};
}

template <typename T>
inline Pair load_last_weights(const T* from, std::int64_t count) {
    T elements[kPair] = {};
    memcpy(elements, from, count * sizeof(T));
    return load_weights(elements);
}

// sums[r][b] = Σ w[r]·x[b]. Every sum has one accumulator, whose terms come in the order of the
// columns: it does not depend on how many rows and columns a tile has, nor on other sums.
template <typename T, int kRows, int kBatch>
inline void dot_products(const T* w, std::int64_t columns, const float* x, std::int64_t x_stride,
                         float (&sums)[kRows][kBatch]) {
    Floats total[kRows][kBatch] = {};
    const auto add = [&](const Pair (&weights)[kRows], std::int64_t i) {
        for (int b = 0; b < kBatch; ++b) {
            const Pair activations = load_pair(x + b * x_stride + i);
            for (int r = 0; r < kRows; ++r) total[r][b] += weights[r].first * activations.first;
            for (int r = 0; r < kRows; ++r) total[r][b] += weights[r].second * activations.second;
        }
    };
    std::int64_t i = 0;
    for (; i + kPair <= columns; i += kPair) {
        Pair weights[kRows];
        for (int r = 0; r < kRows; ++r) weights[r] = load_weights(w + r * columns + i);
        add(weights, i);
    }
    if (i < columns) {
        Pair weights[kRows];
        for (int r = 0; r < kRows; ++r) {
            weights[r] = load_last_weights(w + r * columns + i, columns - i);
        }
        add(weights, i);
    }
    for (int r = 0; r < kRows; ++r) {
        for (int b = 0; b < kBatch; ++b) sums[r][b] = sum_by_halves(total[r][b]);
    }
}

template <typename T, int kRows, int kBatch>
inline void linear_tile(const Linear& op, std::int64_t row, std::int64_t batch) {
    const Matrix& w = op.weight;
    float sums[kRows][kBatch];
    dot_products(static_cast<const T*>(w.data) + row * w.columns, w.columns,
                 op.x + batch * op.x_stride, op.x_stride, sums);
    for (int r = 0; r < kRows; ++r) {
        const float scale = w.scales ? w.scales[row + r] : 1.0f;
        const float bias = op.bias ? op.bias[row + r] : 0.0f;
        for (int b = 0; b < kBatch; ++b) {
            float* const y = op.y + (batch + b) * op.y_stride + row + r;
            // Left to the compiler, it would be one rounding in some tiles and two in others.
            const float result = ::fmaf(sums[r][b], scale, bias);
            *y = op.output == Output::add ? *y + result : result;
        }
    }
}

// `kRows` rows of weights for all rows of activations; the weights come from memory once and from
// the first-level cache for the further tiles.
template <typename T, int kRows, int kBatch>
inline void linear_batch(const Linear& op, std::int64_t row) {
    std::int64_t batch = 0;
    for (; batch + kBatch <= op.batch; batch += kBatch) linear_tile<T, kRows, kBatch>(op, row, batch);
    if constexpr (kBatch > 1) {
        for (; batch < op.batch; ++batch) linear_tile<T, kRows, 1>(op, row, batch);
    }
}

template <typename T, int kRows, int kBatch>
inline void linear_range(const Linear& op, std::int64_t begin, std::int64_t end) {
    std::int64_t row = begin;
    for (; row + kRows <= end; row += kRows) linear_batch<T, kRows, kBatch>(op, row);
    for (; row < end; ++row) linear_batch<T, 1, kBatch>(op, row);
}

// Tiles that fit into 16 registers, or into the 32 of AVX-512: their sums, the weights of a row
// and the activations.
template <typename T>
void linear_rows_of(const Linear& op, std::int64_t begin, std::int64_t end) {
    constexpr int kWide = kLanes == 16 ? 4 : 2;
    if (op.batch == 1) {
        linear_range<T, 8, 1>(op, begin, end);
    } else if (op.batch < 4) {
        linear_range<T, 4, 2>(op, begin, end);
    } else {
        linear_range<T, kWide, 4>(op, begin, end);
    }
}

void linear_rows(const Linear& op, std::int64_t begin, std::int64_t end) {
    switch (op.weight.type) {
        case WeightType::float32: linear_rows_of<float>(op, begin, end); break;
        case WeightType::bfloat16: linear_rows_of<BFloat16>(op, begin, end); break;
        case WeightType::int8: linear_rows_of<std::int8_t>(op, begin, end); break;
    }
    if (op.output != Output::gelu) return;
    for (std::int64_t batch = 0; batch < op.batch; ++batch) {
        float* const y = op.y + batch * op.y_stride;
        std::int64_t i = begin;
        for (; i + kPair <= end; i += kPair) store_pair(y + i, gelu_of(load_pair(y + i)));
        if (i < end) store_partial(y + i, gelu_of(load_partial(y + i, end - i, 0.0f)), end - i);
    }
}

std::int64_t arranged_size(std::int64_t columns) { return (columns + kPair - 1) / kPair * kPair; }

void arrange(WeightType type, float* x, std::int64_t columns) {
    for (std::int64_t i = columns; i < arranged_size(columns); ++i) x[i] = 0.0f;
    if (type != WeightType::bfloat16) return;
    for (std::int64_t i = 0; i < columns; i += kPair) {
        float pair[kPair];
        memcpy(pair, x + i, sizeof pair);
        for (std::int64_t lane = 0; lane < kLanes; ++lane) {
            x[i + lane] = pair[2 * lane];
            x[i + kLanes + lane] = pair[2 * lane + 1];
        }
    }
}

float weight_at(const Matrix& w, std::int64_t row, std::int64_t column) {
    const std::int64_t i = row * w.columns + column;
    switch (w.type) {
        case WeightType::float32: return static_cast<const float*>(w.data)[i];
        case WeightType::bfloat16: return to_float(static_cast<const BFloat16*>(w.data)[i]);
        case WeightType::int8: return static_cast<const std::int8_t*>(w.data)[i] * w.scales[row];
    }
    return kNaN;
}

}  // namespace
}  // namespace pygpt::cpu
