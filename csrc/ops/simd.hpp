// Vectors of kLanes fp32 numbers: load and store in fp32 and bf16, reductions, exp.
//
// Each instruction set's file (isa_*.cpp) defines PYGPT_LANES and includes the ops; CMakeLists.txt
// compiles it with that instruction set's options. The vectors are the compiler's extension
// (vector_size of GCC and Clang), so one source gives SSE2, AVX2, AVX-512 and NEON.
//
// Everything here and in the ops has internal linkage, and no inline function or template of the standard library
// is called: the linker keeps one copy of such a function for the whole program, and it could keep
// the one that was compiled for AVX-512.
#pragma once

#include <math.h>
#include <string.h>
#if PYGPT_LANES > 4
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>

namespace pygpt::cpu {
namespace {

constexpr std::int64_t kLanes = PYGPT_LANES;

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef std::uint32_t Words __attribute__((vector_size(kLanes * 4)));
typedef std::int32_t Integers __attribute__((vector_size(kLanes * 4)));
typedef std::uint16_t Halves __attribute__((vector_size(kLanes * 2)));

// bf16 is the upper half of an fp32 number.
using BFloat16 = std::uint16_t;

constexpr float kInfinity = __builtin_huge_valf();
constexpr float kNaN = __builtin_nanf("");
constexpr float kLowest = -3.40282347e38f;  // -FLT_MAX

inline Floats broadcast(float value) { return Floats{} + value; }

inline Floats load(const float* from) {
    Floats to;
    memcpy(&to, from, sizeof to);
    return to;
}

inline Floats load(const BFloat16* from) {
    Halves halves;
    memcpy(&halves, from, sizeof halves);
    // Of the conversion, one instruction, GCC 12 makes five. (Without a mask, it warns of an
    // uninitialised number in its own header.)
#if PYGPT_LANES == 16
    const Words words = (Words)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)halves);
#elif PYGPT_LANES == 8
    const Words words = (Words)_mm256_cvtepu16_epi32((__m128i)halves);
#else
    const Words words = __builtin_convertvector(halves, Words);
#endif
    return (Floats)(words << 16);
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

// Asks for `count` elements that are read soon; any address is allowed.
template <typename T>
inline void prefetch(const T* from, std::int64_t count) {
    constexpr std::int64_t kLine = 64 / sizeof(T);
    for (std::int64_t i = 0; i < count; i += kLine) __builtin_prefetch(from + i);
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

// `x` in the lanes of the keys [begin, end), `fill` in those behind the end.
inline Floats keep_before(std::int64_t end, std::int64_t begin, Floats x, float fill) {
    Floats lanes{};
    for (std::int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = static_cast<float>(lane);
    return lanes < static_cast<float>(end - begin) ? x : broadcast(fill);
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

// In fp32, by halves: (a₀ + a₈) + …, an order that the compiler may not change.
inline float sum_by_halves(Floats a) {
    float lanes[kLanes];
    store(lanes, a);
    for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
        for (std::int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    }
    return lanes[0];
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

inline Pair operator+(Pair a, Pair b) { return {a.first + b.first, a.second + b.second}; }
inline Pair operator*(Pair a, Pair b) { return {a.first * b.first, a.second * b.second}; }

inline float to_float(float value) { return value; }
inline float to_float(BFloat16 value) {
    const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

inline void store_element(float* to, float from) { *to = from; }
inline void store_element(BFloat16* to, float from) {
    std::uint32_t bits;
    memcpy(&bits, &from, sizeof bits);
    *to = static_cast<BFloat16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The number, or the plain NaN that store_pair takes.
inline float plain(double value) { return value == value ? static_cast<float>(value) : kNaN; }

}  // namespace
}  // namespace pygpt::cpu
