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
    return (Floats)(__builtin_convertvector(halves, Words) << 16);
}

inline void store(float* to, Floats from) { memcpy(to, &from, sizeof from); }

// To nearest, ties to even; what is stored must be a number or a NaN whose lower half is not all
// ones (kNaN, or a bf16 NaN that went through arithmetic), so that adding 0x7fff can't overflow it.
inline Words round_to_upper_half(Floats from) {
    const Words bits = (Words)from;
    return bits + 0x7fffu + ((bits >> 16) & 1u);
}

inline void store(BFloat16* to, Floats from) {
    const Halves halves = __builtin_convertvector(round_to_upper_half(from) >> 16, Halves);
    memcpy(to, &halves, sizeof halves);
}

// 2·kLanes neighbouring elements. Of bf16, `first` holds the even ones and `second` the odd ones:
// a word's two halves come apart and together again by a shift and a mask, where keeping the order
// would cost a permutation on every load and store. Sums and element-wise work need no order.
constexpr std::int64_t kPair = 2 * kLanes;
struct Pair {
    Floats first, second;
};

inline Pair load_pair(const float* from) { return {load(from), load(from + kLanes)}; }

inline Pair load_pair(const BFloat16* from) {
    Words words;
    memcpy(&words, from, sizeof words);
    return {(Floats)(words << 16), (Floats)(words & 0xffff0000u)};
}

inline void store_pair(float* to, Pair from) {
    store(to, from.first);
    store(to + kLanes, from.second);
}

inline void store_pair(BFloat16* to, Pair from) {
    const Words words = (round_to_upper_half(from.first) >> 16) |
                        (round_to_upper_half(from.second) & 0xffff0000u);
    memcpy(to, &words, sizeof words);
}

// The first `count` < kPair elements, `fill` in the other places.
template <typename T>
inline Pair load_partial(const T* from, std::int64_t count, float fill) {
    T elements[kPair];
    store_pair(elements, {broadcast(fill), broadcast(fill)});
    memcpy(elements, from, count * sizeof(T));
    return load_pair(elements);
}

template <typename T>
inline void store_partial(T* to, Pair from, std::int64_t count) {
    T elements[kPair];
    store_pair(elements, from);
    memcpy(to, elements, count * sizeof(T));
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

// e^x for x ≤ 0, within 2 units in the last place; 0 below -87.7, where fp32 is subnormal.
// x = n·ln 2 + r with |r| ≤ ln 2 / 2; e^r by a polynomial of degree 6 (relative error 4e-9, fitted
// for this file), times 2^n made of exponent bits. A NaN comes through the polynomial.
inline Floats exp_nonpositive(Floats x) {
    constexpr float kSmallest = -88.02969f;  // -127·ln 2: there the exponent bits are 0, and so is 2^n
    // Adding 1.5·2²³ leaves an integer in the low bits; 127 is the bias of the exponent.
    constexpr float kRound = 12582912.0f + 127.0f;
    const Floats clamped = x < kSmallest ? broadcast(kSmallest) : x;
    const Floats shifted = clamped * 1.44269504f + kRound;
    const Floats n = shifted - kRound;
    // ln 2 in two parts, the first short enough for n·0.693359375 to be exact.
    const Floats r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    Floats p = r * 1.3814599e-3f + 8.368717e-3f;
    p = p * r + 4.166839e-2f;
    p = p * r + 1.6666521e-1f;
    p = p * r + 4.9999994e-1f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * (Floats)((Words)shifted << 23);
}

// --- softmax cross-entropy ------------------------------------------------------------------------

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

// The number, or the plain NaN that store_pair takes.
inline float plain(double value) { return value == value ? static_cast<float>(value) : kNaN; }

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

// --- accumulation ---------------------------------------------------------------------------------

void accumulate_range(float* sum, const BFloat16* addend, std::int64_t begin, std::int64_t end) {
    std::int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) store(sum + i, load(sum + i) + load(addend + i));
    for (; i < end; ++i) sum[i] += to_float(addend[i]);
}

// --- GELU -----------------------------------------------------------------------------------------

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

inline Pair operator+(Pair a, Pair b) { return {a.first + b.first, a.second + b.second}; }
inline Pair operator*(Pair a, Pair b) { return {a.first * b.first, a.second * b.second}; }
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

// --- attention ------------------------------------------------------------------------------------

// `x` in the lanes of the keys [begin, end), `fill` in those behind the end.
inline Floats keep_before(std::int64_t end, std::int64_t begin, Floats x, float fill) {
    Floats lanes{};
    for (std::int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = static_cast<float>(lane);
    return lanes < static_cast<float>(end - begin) ? x : broadcast(fill);
}

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

Kernels level_kernels() {
    return {cross_entropy_row, accumulate_range, gelu_rows,
            gelu_backward_rows, partial_size, sum_partials,
            attention_backward_row};
}

}  // namespace
}  // namespace pygpt::cpu
