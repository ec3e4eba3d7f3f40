// What each instruction-set level gives to cpu_ops.cpp: one table of functions per level.
#pragma once

#include "cpu_ops.hpp"

namespace pygpt::cpu {

struct Kernels {
    // One row of the tile.
    void (*cross_entropy_row)(const CrossEntropyTile& tile, std::int64_t row);
    // sum[i] += addend[i] for begin <= i < end.
    void (*accumulate)(float* sum, const std::uint16_t* addend, std::int64_t begin,
                       std::int64_t end);
};

extern const Kernels generic_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

}  // namespace pygpt::cpu
