// The table of functions that each instruction set (isa_*.cpp) gives to dispatch.cpp.
#pragma once

#include "ops.hpp"

namespace pygpt::cpu {

struct Kernels {
    // One row of the tile.
    void (*cross_entropy_row)(const CrossEntropyTile& tile, std::int64_t row);
    // sum[i] += addend[i] for begin <= i < end.
    void (*accumulate)(float* sum, const std::uint16_t* addend, std::int64_t begin,
                       std::int64_t end);
    // Rows begin <= row < end of y.
    void (*gelu_rows)(const GeluInput& input, void* y, std::int64_t begin, std::int64_t end);
    // The same of dx; their sum is added to `partial`, partial_size(width) numbers in an order that
    // only sum_partials knows. Null if it isn't wanted.
    void (*gelu_backward_rows)(const GeluInput& input, const void* dy, void* dx, float* partial,
                               std::int64_t begin, std::int64_t end);
    std::int64_t (*partial_size)(std::int64_t width);
    void (*sum_partials)(const float* partials, std::int64_t count, std::int64_t width,
                         bool bfloat16, float* sum);
    // One row of the tile: a query's keys.
    void (*attention_backward_row)(const AttentionTile& tile, std::int64_t row);
};

extern const Kernels generic_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

}  // namespace pygpt::cpu
