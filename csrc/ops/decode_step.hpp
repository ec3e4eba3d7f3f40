// One step of decoding with a GPT: the next logits of some sequences, in one call.
//
// A step reads every weight once, so memory bandwidth is its limit. Called op by op from Python it
// would wait for about sixty calls, each with a start of all threads; here the threads start once
// and go through the step together, phase by phase.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "dispatch.hpp"

namespace pygpt::cpu {

struct Norm {
    const float* weight;
    const float* bias;  // or null
};

struct Layer {
    Norm ln_1;
    Matrix c_attn;
    const float* c_attn_bias;  // this and the other biases may be null
    Matrix attn_proj;
    const float* attn_proj_bias;
    Norm ln_2;
    Matrix c_fc;
    const float* c_fc_bias;
    Matrix mlp_proj;
    const float* mlp_proj_bias;
};

// Everything is the caller's memory, which must outlive the DecodeStep.
struct Model {
    std::vector<Layer> layers;
    Norm ln_f;
    Matrix tokens;           // embedding and head
    const float* positions;  // (block_size, n_embd)
    std::int64_t n_head;
    std::int64_t block_size;
};

// Keys and values of `rows` sequences: for each layer, row and head as HeadStep has them.
struct Cache {
    void* keys;    // (n_layer, rows, n_head, ⌈block_size / kKeyBlock⌉, head_size, kKeyBlock)
    void* values;  // (n_layer, rows, n_head, block_size, value_stride)
    bool bfloat16;
    std::int64_t rows;
};

// The newest ids of `size` sequences.
struct Batch {
    std::int64_t size;
    const std::int64_t* ids;
    const std::int64_t* rows;       // of the cache, distinct
    const std::int64_t* positions;  // of the ids: those before are in the cache
    float* logits;                  // (size, vocabulary), written
};

class DecodeStep {
public:
    DecodeStep(Model model, Cache cache, Level level);

    // Not from two threads at once. The logits of a sequence do not depend on the others, nor on
    // the number of threads.
    void run(const Batch& batch, int threads);

private:
    // Work that all threads take pieces of, and whose end they wait for. A thread that comes late
    // finds the pieces taken: any number of threads finishes a phase.
    struct alignas(64) Phase {
        std::atomic<std::int64_t> next{0};
        std::atomic<std::int64_t> done{0};
    };
    struct PieceSizes {
        std::int64_t least, most;
    };
    struct Step;  // what the threads of one run() share

    void work(Step& step);
    template <typename Piece>
    void share(Phase& phase, std::int64_t size, PieceSizes sizes, int threads, Piece piece);
    template <typename Prepare>
    void linear(Step& step, Phase& phase, Linear op, Prepare prepare, float* scratch);
    void attention(Step& step, Phase& phase, std::int64_t layer, float* scratch);

    Model model_;
    Cache cache_;
    const Kernels& kernels_;
    std::int64_t n_embd_, head_size_, value_stride_;
    std::vector<Phase> phases_;
    std::vector<float> x_, qkv_, attended_, hidden_;   // activations, (batch, …)
    std::vector<std::vector<float>> scratch_;  // a thread's own
};

}  // namespace pygpt::cpu
