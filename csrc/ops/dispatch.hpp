// The table of functions that each instruction set (isa_*.cpp) gives to dispatch.cpp.
#pragma once

#include "ops.hpp"

namespace pygpt::cpu {

enum class WeightType { float32, bfloat16, int8 };

// The weights of a linear layer, (rows, columns), rows without gaps.
struct Matrix {
    const void* data;
    const float* scales;  // (rows,) of int8: a weight is data·scale of its row; null for the others
    WeightType type;
    std::int64_t rows;
    std::int64_t columns;
};

enum class Output { store, gelu, add };  // y = r, y = gelu(r), y += r

// y = x·Wᵀ + bias in fp32, for `batch` rows of activations.
struct Linear {
    Matrix weight;
    const float* bias;      // (weight.rows,) or null
    const float* x;         // (batch, weight.columns), as Kernels::arrange leaves it
    std::int64_t x_stride;
    std::int64_t batch;
    float* y;               // (batch, weight.rows)
    std::int64_t y_stride;
    Output output;
};

constexpr std::int64_t kKeyBlock = 16;

// One head of one sequence in a step of decoding: the new key and value are stored, and the query
// attends to all keys so far. Keys lie in blocks of kKeyBlock positions: (positions / kKeyBlock,
// head_size, kKeyBlock), so that the scores of neighbouring positions are neighbouring lanes.
struct HeadStep {
    const float* q;             // (head_size,)
    const float* k;             // (head_size,)
    const float* v;             // (head_size,)
    void* keys;                 // blocks as above, fp32 or bf16
    void* values;               // (positions, value_stride), the channels behind head_size are 0
    bool bfloat16;              // of keys and values
    std::int64_t head_size;
    std::int64_t value_stride;  // head_size rounded up to a multiple of kKeyBlock
    std::int64_t position;      // of the new key: those before it are in the cache
    float* scratch;             // (position + 1 + 2·kKeyBlock + value_stride,)
    float* y;                   // (head_size,), written
};

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
    // Rows begin <= row < end of the weights. A y is a sum in an order that depends on neither
    // the range nor the batch.
    void (*linear_rows)(const Linear& op, std::int64_t begin, std::int64_t end);
    // One row of x in place, for weights of this type, padded with zeros to arranged_size(columns).
    void (*arrange)(WeightType type, float* x, std::int64_t columns);
    std::int64_t (*arranged_size)(std::int64_t columns);
    // x = tokens[id] + position, (columns,).
    void (*embed)(const Matrix& tokens, const float* position, std::int64_t id, float* x);
    // bias may be null; epsilon is 1e-5.
    void (*layer_norm_row)(const float* x, const float* weight, const float* bias,
                           std::int64_t size, float* y);
    void (*attend_head)(const HeadStep& head);
    std::uint64_t (*read_range)(const void* memory, std::int64_t size);
};

extern const Kernels generic_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

const Kernels& kernels(Level level);

// Calls function(data) from `threads` threads at once, this one among them; it may be fewer.
void on_threads(int threads, void (*function)(void*), void* data);

}  // namespace pygpt::cpu
