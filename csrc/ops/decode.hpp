// A step of decoding beside its matrix products: embedding, layer norm, attention over the cache.
#pragma once

#include "dispatch.hpp"
#include "linear.hpp"
#include "simd.hpp"

namespace pygpt::cpu {
namespace {

void embed(const Matrix& tokens, const float* position, std::int64_t id, float* x) {
    for (std::int64_t i = 0; i < tokens.columns; ++i) x[i] = weight_at(tokens, id, i) + position[i];
}

template <typename Visit>
inline void for_each_vector(const float* x, std::int64_t size, Visit visit) {
    std::int64_t i = 0;
    for (; i + kPair <= size; i += kPair) {
        const Pair pair = load_pair(x + i);
        visit(pair.first, kLanes);
        visit(pair.second, kLanes);
    }
    for (; i < size; ++i) {
        Floats one{};
        one[0] = x[i];
        visit(one, 1);
    }
}

void layer_norm_row(const float* x, const float* weight, const float* bias, std::int64_t size,
                    float* y) {
    constexpr double kEpsilon = 1e-5;
    Floats sum{};
    for_each_vector(x, size, [&](Floats part, std::int64_t) { sum += part; });
    const float mean = static_cast<float>(sum_lanes(sum) / static_cast<double>(size));
    Floats squares{};
    for_each_vector(x, size, [&](Floats part, std::int64_t count) {
        const Floats centred = keep_before(count, 0, part - mean, 0.0f);
        squares += centred * centred;
    });
    const double variance = sum_lanes(squares) / static_cast<double>(size);
    const float rstd = static_cast<float>(1 / ::sqrt(variance + kEpsilon));
    for (std::int64_t i = 0; i < size; ++i) {
        y[i] = (x[i] - mean) * rstd * weight[i] + (bias ? bias[i] : 0.0f);
    }
}

// Positions between the one that is read and the one that is prefetched, a multiple of kKeyBlock.
constexpr std::int64_t kAhead = 2 * kKeyBlock;

// scores[s] = scale·q·k[s] for the keys [0, n), written in whole blocks; the largest of them.
template <typename T>
inline float scores_of(const T* keys, const float* q, std::int64_t head_size, std::int64_t n,
                       float scale, float* scores) {
    Floats highest = broadcast(kLowest);
    for (std::int64_t s = 0; s < n; s += kLanes) {
        // A block holds kKeyBlock keys, and of each channel those keys side by side.
        const std::int64_t in_block = s % kKeyBlock;
        const T* const block = keys + (s - in_block) * head_size + in_block;
        const std::int64_t ahead = s + kAhead < n ? kAhead * head_size : 0;
        Floats even{}, odd{};
        std::int64_t d = 0;
        for (; d + 2 <= head_size; d += 2) {
            if (ahead) prefetch(block + ahead + d * kKeyBlock, 2 * kKeyBlock);
            even += load(block + d * kKeyBlock) * q[d];
            odd += load(block + (d + 1) * kKeyBlock) * q[d + 1];
        }
        if (d < head_size) even += load(block + d * kKeyBlock) * q[d];
        const Floats score = keep_before(n, s, (even + odd) * scale, -kInfinity);
        store(scores + s, score);
        highest = max(score, highest);
    }
    return max_lane(highest);
}

// y = Σ weights[s]·v[s] / total, for kVectors vectors of channels.
template <typename T, int kVectors>
inline void weighted_values(const T* values, std::int64_t stride, const float* weights,
                            std::int64_t n, float one_over_total, float* y) {
    Floats sum[kVectors] = {};
    for (std::int64_t s = 0; s < n; ++s) {
        if (s + kAhead < n) prefetch(values + (s + kAhead) * stride, kVectors * kLanes);
        for (int j = 0; j < kVectors; ++j) {
            sum[j] += load(values + s * stride + j * kLanes) * weights[s];
        }
    }
    for (int j = 0; j < kVectors; ++j) store(y + j * kLanes, sum[j] * one_over_total);
}

template <typename T>
void attend_head_of(const HeadStep& head) {
    T* const keys = static_cast<T*>(head.keys);
    T* const values = static_cast<T*>(head.values);
    const std::int64_t size = head.head_size, position = head.position;
    const std::int64_t in_block = position % kKeyBlock;
    T* const key = keys + (position - in_block) * size + in_block;
    for (std::int64_t d = 0; d < size; ++d) {
        store_element(key + d * kKeyBlock, head.k[d]);
        store_element(values + position * head.value_stride + d, head.v[d]);
    }
    const std::int64_t n = position + 1;
    const float scale = 1 / ::sqrtf(static_cast<float>(size));
    const float highest = scores_of(keys, head.q, size, n, scale, head.scratch);
    Floats sum{};
    for (std::int64_t s = 0; s < n; s += kLanes) {
        const Floats e = exp_nonpositive(load(head.scratch + s) - highest);
        store(head.scratch + s, e);
        sum += e;
    }
    const float one_over_total = static_cast<float>(1 / sum_lanes(sum));
    float* const y = head.scratch + (n + kKeyBlock - 1) / kKeyBlock * kKeyBlock;
    std::int64_t d = 0;
    for (; d + 4 * kLanes <= head.value_stride; d += 4 * kLanes) {
        weighted_values<T, 4>(values + d, head.value_stride, head.scratch, n, one_over_total, y + d);
    }
    for (; d < head.value_stride; d += kLanes) {
        weighted_values<T, 1>(values + d, head.value_stride, head.scratch, n, one_over_total, y + d);
    }
    memcpy(head.y, y, size * sizeof(float));
}

void attend_head(const HeadStep& head) {
    if (head.bfloat16) {
        attend_head_of<BFloat16>(head);
    } else {
        attend_head_of<float>(head);
    }
}

}  // namespace
}  // namespace pygpt::cpu
