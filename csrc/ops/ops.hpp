// The native (CPU) implementation of pygpt's ops: plain pointers in, no Python, no torch.
//
//   cross_entropy_rows   softmax cross-entropy of a tile of logits, and its gradient in their place
//   accumulate           sum += addend, the sum in fp32 and the addend in bf16
//   gelu, gelu_backward  GELU of x + bias in its tanh form, and its gradients, the bias's included
//   attention_backward_rows  causal softmax and its gradient, between attention's matrix products
//
// A whole step of decoding is in decode_step.hpp.
//
// The arithmetic is written once, one op a file, and compiled once for each level below (isa_*.cpp);
// dispatch.cpp chooses the level at run time, so that a wheel built on one CPU runs on another.
//
// Every row and every element is computed by one thread, and sums over rows are split in the same
// way always: results don't depend on the number of threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pygpt::cpu {

// Instruction sets, each including those before it.
enum class Level { generic, avx2, avx512 };

// The levels that this build holds and this CPU runs, lowest first; "generic" always.
std::vector<std::string> supported_levels();

// By name. Throws std::invalid_argument for a level that is unknown or that can't run here.
Level parse_level(const std::string& name);

// A tile of logits: `rows` rows of `vocab` columns, `row_stride` elements apart, fp32 or bf16.
struct CrossEntropyTile {
    void* logits;                 // overwritten by d(row_weight · loss)/d(logits) if `gradient`
    bool bfloat16;                // the logits' type; otherwise fp32
    std::int64_t rows;
    std::int64_t vocab;
    std::int64_t row_stride;
    const std::int64_t* targets;  // (rows,)
    const float* row_weight;      // (rows,) or null for ones
    float* loss;                  // (rows,) 0 where the target is ignore_index
    float* lse;                   // (rows,) log Σ exp(logits), of ignored rows too
    std::int64_t ignore_index;
    float z_loss;                 // weight of lse²
    float label_smoothing;        // ε: the share of the target spread over all ids
    bool gradient;
};

// A target outside [0, vocab) that is not ignore_index makes its row's loss and gradient NaN.
void cross_entropy_rows(const CrossEntropyTile& tile, int threads, Level level);

// sum[i] += addend[i] for i < size; addend holds bf16.
void accumulate(float* sum, const std::uint16_t* addend, std::int64_t size, int threads,
                Level level);

// Rows of activations before GELU and the bias to add; all three of one type, without gaps.
struct GeluInput {
    const void* x;     // (rows, width)
    const void* bias;  // (width,)
    bool bfloat16;     // their type and the outputs'; otherwise fp32
    std::int64_t rows;
    std::int64_t width;
};

// y = z·½·(1 + tanh(√(2/π)·(z + 0.044715·z³))), z = x + bias; y is (rows, width).
void gelu(const GeluInput& input, void* y, int threads, Level level);

// dx = dy·dy/dz, and dbias its sum over the rows in fp32, (width,), or null if it isn't wanted.
void gelu_backward(const GeluInput& input, const void* dy, void* dx, float* dbias, int threads,
                   Level level);

// What lies between the matrix products of causal attention's backward, for some heads. Each array
// is (heads, positions, positions): a row of keys for each query, which sees those up to its own.
struct AttentionTile {
    float* scores;            // q·kᵀ; scratch from then on
    std::uint16_t* weights;   // bf16; written: softmax(scale · scores), 0 for keys that aren't seen
    std::uint16_t* gradient;  // bf16: dy·vᵀ, that of the weights; overwritten by that of q·kᵀ
    std::int64_t heads;
    std::int64_t positions;   // a multiple of kAttentionPositions
    float scale;              // above 0
};

constexpr std::int64_t kAttentionPositions = 16;

void attention_backward_rows(const AttentionTile& tile, int threads, Level level);

// Reads `size` bytes, `piece` (a multiple of 8) by a thread at a time; returns the exclusive or of
// their words of 64 bits, the last one filled with zeros.
std::uint64_t read_memory(const void* memory, std::int64_t size, std::int64_t piece, int threads,
                          Level level);

}  // namespace pygpt::cpu
