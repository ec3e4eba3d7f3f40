// Attention's backward between the matrix products: causal softmax and its gradient.
#pragma once

#include "ops.hpp"
#include "simd.hpp"

namespace pygpt::cpu {
namespace {

// With w = softmax(scale·s) and dw its gradient: ds = scale·w·(dw - Σ w·dw), over the keys that the
// query sees. exp(scale·(s - max)) takes the place of s on the way.
void attention_backward_row(const AttentionTile& tile, std::int64_t row) {
    static_assert(kAttentionPositions % kLanes == 0, "rows are whole vectors");
    float* const scores = tile.scores + row * tile.positions;
    BFloat16* const weights = tile.weights + row * tile.positions;
    BFloat16* const gradient = tile.gradient + row * tile.positions;
    const std::int64_t seen = row % tile.positions + 1;

    Floats highest = broadcast(kLowest);
    for (std::int64_t i = 0; i < seen; i += kLanes) {
        highest = max(keep_before(seen, i, load(scores + i), kLowest), highest);
    }
    const float row_max = max_lane(highest);

    Floats sum{}, product{};
    for (std::int64_t i = 0; i < seen; i += kLanes) {
        const Floats s = keep_before(seen, i, load(scores + i), -kInfinity);
        const Floats dw = keep_before(seen, i, load(gradient + i), 0.0f);
        const Floats e = exp_nonpositive((s - row_max) * tile.scale);
        store(scores + i, e);
        sum += e;
        product += e * dw;
    }
    const double total = sum_lanes(sum);
    const float one_over_sum = plain(1 / total), mean = plain(sum_lanes(product) / total);

    std::int64_t i = 0;
    for (; i < seen; i += kLanes) {
        const Floats w = load(scores + i) * one_over_sum;
        const Floats dw = keep_before(seen, i, load(gradient + i), 0.0f);
        store(weights + i, w);
        store(gradient + i, w * (dw - mean) * tile.scale);
    }
    const std::size_t unseen = (tile.positions - i) * sizeof(BFloat16);
    memset(weights + i, 0, unseen);
    memset(gradient + i, 0, unseen);
}

}  // namespace
}  // namespace pygpt::cpu
