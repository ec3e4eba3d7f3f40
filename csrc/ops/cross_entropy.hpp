// Softmax cross-entropy of one row of logits, and its gradient in place.
#pragma once

#include "ops.hpp"
#include "simd.hpp"

namespace pygpt::cpu {
namespace {

struct RowStatistics {
    float max;      // largest logit
    double sum;     // Σ exp(logit - max)
    double logits;  // Σ logit, for label smoothing
};

// Calls visit(pair) for every pair of [begin, end); `fill` stands in behind the end.
template <typename T, typename Visit>
inline void for_each_pair(const T* row, std::int64_t begin, std::int64_t end, float fill,
                          Visit visit) {
    std::int64_t i = begin;
    for (; i + kPair <= end; i += kPair) visit(load_pair(row + i));
    if (i < end) visit(load_partial(row + i, end - i, fill));
}

// One pass over a row (Milakov and Gimelshein 2018, algorithm 3), by blocks that stay in the
// first-level cache while they are read twice: for their maximum, then for the sum.
template <typename T>
RowStatistics row_statistics(const T* logits, std::int64_t vocab, bool with_logits) {
    constexpr std::int64_t kBlock = 1024;
    // From the lowest finite number, so that a block of -inf adds 0 and not exp(-inf + inf).
    RowStatistics row{kLowest, 0.0, 0.0};
    for (std::int64_t begin = 0; begin < vocab; begin += kBlock) {
        const std::int64_t end = begin + kBlock < vocab ? begin + kBlock : vocab;

        Pair highest{broadcast(kLowest), broadcast(kLowest)};
        for_each_pair(logits, begin, end, -kInfinity, [&](Pair x) {
            highest = {max(x.first, highest.first), max(x.second, highest.second)};
        });
        const float block_max = max_lane(max(highest.first, highest.second));
        if (block_max > row.max) {
            row.sum *= ::exp(static_cast<double>(row.max) - block_max);
            row.max = block_max;
        }

        const float shift = row.max;
        Pair sum{};
        for_each_pair(logits, begin, end, -kInfinity, [&](Pair x) {
            sum.first += exp_nonpositive(x.first - shift);
            sum.second += exp_nonpositive(x.second - shift);
        });
        row.sum += sum_lanes(sum.first) + sum_lanes(sum.second);

        if (with_logits) {
            Pair total{};
            for_each_pair(logits, begin, end, 0.0f, [&](Pair x) {
                total.first += x.first;
                total.second += x.second;
            });
            row.logits += sum_lanes(total.first) + sum_lanes(total.second);
        }
    }
    return row;
}

// logits[i] = exp(logits[i] - max)·scale - offset
template <typename T>
void write_softmax(T* logits, std::int64_t vocab, float max, float scale, float offset) {
    const auto softmax = [=](Pair x) -> Pair {
        return {exp_nonpositive(x.first - max) * scale - offset,
                exp_nonpositive(x.second - max) * scale - offset};
    };
    std::int64_t i = 0;
    for (; i + kPair <= vocab; i += kPair) store_pair(logits + i, softmax(load_pair(logits + i)));
    if (const std::int64_t rest = vocab - i) {
        store_partial(logits + i, softmax(load_partial(logits + i, rest, 0.0f)), rest);
    }
}

template <typename T>
void cross_entropy_row_of(const CrossEntropyTile& tile, std::int64_t index) {
    T* logits = static_cast<T*>(tile.logits) + index * tile.row_stride;
    const std::int64_t target = tile.targets[index];
    const bool ignored = target == tile.ignore_index;
    const bool in_range = target >= 0 && target < tile.vocab;
    const double smoothing = tile.label_smoothing;

    const RowStatistics row = row_statistics(logits, tile.vocab, smoothing > 0);
    const double log_sum = ::log(row.sum);  // lse - max: exact where lse itself is large
    const double lse = row.max + log_sum;
    tile.lse[index] = static_cast<float>(lse);

    if (ignored) {
        tile.loss[index] = 0.0f;
        if (tile.gradient) memset(logits, 0, tile.vocab * sizeof(T));
        return;
    }
    const double below_max = in_range ? to_float(logits[target]) - row.max : kNaN;
    double loss = (1 - smoothing) * (log_sum - below_max);
    if (smoothing > 0) loss += smoothing * (lse - row.logits / tile.vocab);
    if (tile.z_loss != 0) loss += tile.z_loss * lse * lse;
    tile.loss[index] = static_cast<float>(loss);
    if (!tile.gradient) return;

    // d loss/d logit_i = (1 + 2·z·lse)·softmax_i - ε/V - (1 - ε)·[i = target]
    const double row_weight = tile.row_weight ? tile.row_weight[index] : 1.0;
    const double weight = in_range ? row_weight : kNaN;
    const double scale = weight * (1 + 2 * tile.z_loss * lse) / row.sum;
    const double offset = weight * smoothing / tile.vocab;
    write_softmax(logits, tile.vocab, row.max, plain(scale), plain(offset));
    if (in_range) {
        const double at_target = ::exp(below_max) * scale - offset - weight * (1 - smoothing);
        store_partial(logits + target, {broadcast(plain(at_target)), Floats{}}, 1);
    }
}

void cross_entropy_row(const CrossEntropyTile& tile, std::int64_t row) {
    if (tile.bfloat16) {
        cross_entropy_row_of<BFloat16>(tile, row);
    } else {
        cross_entropy_row_of<float>(tile, row);
    }
}

}  // namespace
}  // namespace pygpt::cpu
