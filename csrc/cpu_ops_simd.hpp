// The arithmetic of the native ops, over vectors of kLanes fp32 numbers.
//
// Each level's file defines PYGPT_LANES, includes this file and puts its functions into a table;
// CMakeLists.txt compiles that file with the level's instructions. Vectors are the compiler's own
// (GCC's and Clang's vector_size), so SSE2, AVX2, AVX-512 and NEON come from one text.
//
// Everything here has internal linkage, and no inline function or template of the standard library
// is called: the linker keeps one copy of such a function for the whole program, and it could keep
// the one that was compiled for AVX-512.
#pragma once

#include <math.h>
#include <string.h>

#include "cpu_ops_levels.hpp"

namespace pygpt::cpu {
namespace {

constexpr std::int64_t kLanes = PYGPT_LANES;

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef std::uint32_t Words __attribute__((vector_size(kLanes * 4)));
typedef std::uint16_t Halves __attribute__((vector_size(kLanes * 2)));

// bf16 is the upper half of an fp32 number.
using BFloat16 = std::uint16_t;

constexpr float kInfinity = __builtin_huge_valf();
constexpr float kNaN = __builtin_nanf("");
constexpr float kLowest = -3.40282347e38f;  // -FLT_MAX

// --- vectors --------------------------------------------------------------------------------------

inline Floats broadcast(float value) { return Floats{} + value; }

inline Floats load(const float* from) {
    Floats to;
    memcpy(&to, from, sizeof to);
    return to;
}

inline Floats load(const BFloat16* from) {
    Halves halves;
    memcpy(&halves, from, sizeof halves);
    const Words words = __builtin_convertvector(halves, Words) << 16;
    return (Floats)words;
}

inline void store(float* to, Floats from) { memcpy(to, &from, sizeof from); }

// Rounds to nearest, ties to even. A NaN stays one: its mantissa keeps the quiet bit.
inline void store(BFloat16* to, Floats from) {
    const Words bits = (Words)from;
    const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Words quiet = (bits >> 16) | 0x40u;
    const Words chosen = (from == from) ? rounded : quiet;
    const Halves halves = __builtin_convertvector(chosen, Halves);
    memcpy(to, &halves, sizeof halves);
}

// The first `count` < kLanes elements, `fill` in the other lanes.
template <typename T>
inline Floats load_partial(const T* from, std::int64_t count, float fill) {
    T lanes[kLanes];
    store(lanes, broadcast(fill));
    memcpy(lanes, from, count * sizeof(T));
    return load(lanes);
}

template <typename T>
inline void store_partial(T* to, Floats from, std::int64_t count) {
    T lanes[kLanes];
    store(lanes, from);
    memcpy(to, lanes, count * sizeof(T));
}

// A lane that holds NaN is passed over, here and in max_lane: exp() carries it into the sums.
inline Floats max(Floats a, Floats b) { return a > b ? a : b; }

inline float max_lane(Floats a) {
    float best = kLowest;
    for (std::int64_t lane = 0; lane < kLanes; ++lane) best = a[lane] > best ? a[lane] : best;
    return best;
}

inline double sum_lanes(Floats a) {
    double total = 0;
    for (std::int64_t lane = 0; lane < kLanes; ++lane) total += a[lane];
    return total;
}

// e^x for x ≤ 0, within 2 units in the last place; 0 below -87.3, where fp32 turns subnormal.
// x = n·ln 2 + r with |r| ≤ ln 2 / 2, and e^r by a polynomial of degree 6 (relative error 4e-9,
// fitted for this file), times 2^n by way of the exponent's bits.
inline Floats exp_nonpositive(Floats x) {
    constexpr float kSmallest = -87.33654f;
    constexpr float kRound = 12582912.0f;  // 1.5·2²³: adding it leaves an integer in the low bits
    const Floats clamped = x < kSmallest ? broadcast(kSmallest) : x;
    const Floats shifted = clamped * 1.44269504f + kRound;
    const Floats n = shifted - kRound;
    // ln 2 in two parts, the first short enough for n·0.693359375 to be exact.
    const Floats r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    Floats p = r * 1.3814599e-3f + 8.368717e-3f;
    p = p * r + 4.166839e-2f;
    p = p * r + 1.6666521e-1f;
    p = p * r + 4.9999994e-1f;
    p = p * (r * r) + r + 1.0f;
    const Words exponent = (Words)shifted << 23;  // kRound's own bits are shifted out
    const Floats result = (Floats)((Words)p + exponent);
    return x < kSmallest ? Floats{} : (x == x ? result : x);
}

// --- softmax cross-entropy ------------------------------------------------------------------------

struct RowStatistics {
    float max;      // largest logit
    double sum;     // Σ exp(logit - max)
    double logits;  // Σ logit, for label smoothing
};

// One pass over a row (Milakov and Gimelshein 2018, algorithm 3), by blocks that stay in the
// first-level cache while they are read twice: for their maximum, then for the sum.
template <typename T>
RowStatistics row_statistics(const T* logits, std::int64_t vocab, bool with_logits) {
    constexpr std::int64_t kBlock = 1024;
    // From the lowest finite number, so that a block of -inf adds 0 and not exp(-inf + inf).
    RowStatistics row{kLowest, 0.0, 0.0};
    for (std::int64_t begin = 0; begin < vocab; begin += kBlock) {
        const std::int64_t end = begin + kBlock < vocab ? begin + kBlock : vocab;
        const std::int64_t whole = begin + (end - begin) / kLanes * kLanes;
        const std::int64_t rest = end - whole;

        Floats highest = broadcast(kLowest);
        for (std::int64_t i = begin; i < whole; i += kLanes) highest = max(load(logits + i), highest);
        if (rest) highest = max(load_partial(logits + whole, rest, -kInfinity), highest);
        const float block_max = max_lane(highest);
        if (block_max > row.max) {
            row.sum *= ::exp(static_cast<double>(row.max) - block_max);
            row.max = block_max;
        }

        Floats sum{};
        for (std::int64_t i = begin; i < whole; i += kLanes) {
            sum += exp_nonpositive(load(logits + i) - row.max);
        }
        if (rest) sum += exp_nonpositive(load_partial(logits + whole, rest, -kInfinity) - row.max);
        row.sum += sum_lanes(sum);

        if (with_logits) {
            Floats total{};
            for (std::int64_t i = begin; i < whole; i += kLanes) total += load(logits + i);
            if (rest) total += load_partial(logits + whole, rest, 0.0f);
            row.logits += sum_lanes(total);
        }
    }
    return row;
}

inline float to_float(float value) { return value; }
inline float to_float(BFloat16 value) {
    const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

// logits[i] = exp(logits[i] - max)·scale - offset
template <typename T>
void write_softmax(T* logits, std::int64_t vocab, float max, float scale, float offset) {
    const std::int64_t whole = vocab / kLanes * kLanes;
    for (std::int64_t i = 0; i < whole; i += kLanes) {
        store(logits + i, exp_nonpositive(load(logits + i) - max) * scale - offset);
    }
    if (const std::int64_t rest = vocab - whole) {
        const Floats last = load_partial(logits + whole, rest, 0.0f);
        store_partial(logits + whole, exp_nonpositive(last - max) * scale - offset, rest);
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
    const double weight = (in_range ? 1.0 : kNaN) * (tile.row_weight ? tile.row_weight[index] : 1.0);
    const double scale = weight * (1 + 2 * tile.z_loss * lse) / row.sum;
    const double offset = weight * smoothing / tile.vocab;
    write_softmax(logits, tile.vocab, row.max, static_cast<float>(scale), static_cast<float>(offset));
    if (in_range) {
        const double at_target = ::exp(below_max) * scale - offset - weight * (1 - smoothing);
        store_partial(logits + target, broadcast(static_cast<float>(at_target)), 1);
    }
}

void cross_entropy_row(const CrossEntropyTile& tile, std::int64_t row) {
    if (tile.bfloat16) {
        cross_entropy_row_of<BFloat16>(tile, row);
    } else {
        cross_entropy_row_of<float>(tile, row);
    }
}

// --- accumulation ---------------------------------------------------------------------------------

void accumulate_range(float* sum, const BFloat16* addend, std::int64_t begin, std::int64_t end) {
    std::int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) store(sum + i, load(sum + i) + load(addend + i));
    for (; i < end; ++i) sum[i] += to_float(addend[i]);
}

}  // namespace
}  // namespace pygpt::cpu
