// A few rows of activations times a weight matrix, whose weights are read once: y = x·Wᵀ + bias.
#pragma once

#include "dispatch.hpp"
#include "gelu.hpp"
#include "simd.hpp"

namespace pygpt::cpu {
namespace {

// A vector of words holds kParts<T> vectors of weights: part j has element kParts·lane + j of each
// lane's word. Shifts take the parts out, where keeping the order would cost permutations (and GCC
// converts int8 to fp32 one by one); arrange() puts the activations into the same order.
template <typename T>
constexpr int kParts = 4 / sizeof(T);

template <typename T>
inline Floats part_of(Words words, int j) {
    if constexpr (sizeof(T) == 4) return (Floats)words;
    if constexpr (sizeof(T) == 2) return (Floats)(j == 0 ? words << 16 : words & 0xffff0000u);
    return __builtin_convertvector((Integers)(words << (24 - 8 * j)) >> 24, Floats);
}

constexpr int kFarTiles = 4;

inline Words load_words(const void* from) {
    Words to;
    memcpy(&to, from, sizeof to);
    return to;
}

// The first `count` weights, 0 in the other places.
template <typename T>
inline Words load_last_words(const T* from, std::int64_t count) {
    T elements[kParts<T> * kLanes] = {};
    memcpy(elements, from, count * sizeof(T));
    return load_words(elements);
}

// sums[r][b] = Σ w[r]·x[b]; the `kRows` rows of weights behind these are prefetched. Every sum has one accumulator, whose terms come in the order of the
// columns: it does not depend on how many rows and columns a tile has, nor on other sums.
template <typename T, int kRows, int kBatch>
inline void dot_products(const T* w, std::int64_t columns, const float* x, std::int64_t x_stride,
                         float (&sums)[kRows][kBatch]) {
    constexpr std::int64_t kStep = kParts<T> * kLanes;
    Floats total[kRows][kBatch] = {};
    const auto add = [&](const Words (&words)[kRows], std::int64_t i) {
        for (int j = 0; j < kParts<T>; ++j) {
            Floats activations[kBatch];
            for (int b = 0; b < kBatch; ++b) activations[b] = load(x + b * x_stride + i + j * kLanes);
            for (int r = 0; r < kRows; ++r) {
                const Floats weights = part_of<T>(words[r], j);
                for (int b = 0; b < kBatch; ++b) total[r][b] += weights * activations[b];
            }
        }
    };
    std::int64_t i = 0;
    for (; i + kStep <= columns; i += kStep) {
        Words words[kRows];
        for (int r = 0; r < kRows; ++r) {
            words[r] = load_words(w + r * columns + i);
            // A row is too short for the CPU's own prefetching, which begins again with each:
            // the next tile into the first-level cache, a later one into the second.
            __builtin_prefetch(w + (r + kRows) * columns + i);
            __builtin_prefetch(w + (r + kFarTiles * kRows) * columns + i, 0, 2);
        }
        add(words, i);
    }
    if (i < columns) {
        Words words[kRows];
        for (int r = 0; r < kRows; ++r) {
            words[r] = load_last_words(w + r * columns + i, columns - i);
        }
        add(words, i);
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

std::int64_t arranged_size(std::int64_t columns) {
    constexpr std::int64_t kMost = kParts<std::int8_t> * kLanes;
    return (columns + kMost - 1) / kMost * kMost;
}

template <typename T>
inline void arrange_for(float* x, std::int64_t size) {
    constexpr std::int64_t kStep = kParts<T> * kLanes;
    for (std::int64_t i = 0; i < size; i += kStep) {
        float step[kStep];
        memcpy(step, x + i, sizeof step);
        for (std::int64_t lane = 0; lane < kLanes; ++lane) {
            for (int j = 0; j < kParts<T>; ++j) x[i + j * kLanes + lane] = step[kParts<T> * lane + j];
        }
    }
}

void arrange(WeightType type, float* x, std::int64_t columns) {
    const std::int64_t size = arranged_size(columns);
    for (std::int64_t i = columns; i < size; ++i) x[i] = 0.0f;
    if (type == WeightType::bfloat16) arrange_for<BFloat16>(x, size);
    if (type == WeightType::int8) arrange_for<std::int8_t>(x, size);
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
