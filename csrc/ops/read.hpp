// Reading memory and nothing else: the bandwidth that other ops are compared with.
#pragma once

#include "simd.hpp"

namespace pygpt::cpu {
namespace {

// The exclusive or of all bits, in words of 64; eight runs side by side, which several of the CPU's
// prefetchers follow: a fifth faster than one.
std::uint64_t read_range(const void* memory, std::int64_t size) {
    constexpr int kRuns = 8;
    const char* const bytes = static_cast<const char*>(memory);
    const std::int64_t run = size / (kRuns * sizeof(Words)) * sizeof(Words);
    Words runs[kRuns] = {};
    for (std::int64_t i = 0; i < run; i += sizeof(Words)) {
        for (int r = 0; r < kRuns; ++r) {
            Words words;
            memcpy(&words, bytes + r * run + i, sizeof words);
            runs[r] ^= words;
        }
    }
    std::uint64_t result = 0;
    for (int r = 0; r < kRuns; ++r) {
        std::uint64_t parts[sizeof(Words) / 8];
        memcpy(parts, &runs[r], sizeof parts);
        for (const std::uint64_t part : parts) result ^= part;
    }
    for (std::int64_t i = kRuns * run; i < size; i += 8) {
        std::uint64_t rest = 0;
        memcpy(&rest, bytes + i, size - i < 8 ? size - i : 8);
        result ^= rest;
    }
    return result;
}

}  // namespace
}  // namespace pygpt::cpu
