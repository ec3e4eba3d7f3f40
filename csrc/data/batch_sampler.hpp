// Which windows make batch k, and filling a caller's buffers with them.
//
// A batch is a pure function of (shards, options, step): nothing is drawn from a state, so any step
// can be asked for at once and in any order, from any thread.
//
//   permutation  An epoch is W = max(1, (N - T) / T) windows of T targets side by side (N tokens in
//                the split, T = block_size), visited in an order given by a keyed permutation that
//                is computed, not stored. The first window starts at a shift drawn for each epoch
//                from all the room there is, so the borders move from epoch to epoch and every
//                token but those at the two edges is a target exactly once an epoch.
//   random       Every window starts anywhere, drawn with replacement, as nanoGPT does.
//
// Row j of the global batch of step k is sample k · batch_size + j; rank r of w gets the rows from
// r · batch_size / w to (r + 1) · batch_size / w.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "token_file.hpp"

namespace pygpt {

class ReadAhead;

enum class Sampling { permutation, random };

Sampling parse_sampling(const std::string& name);  // "permutation" or "random"; else InputError

struct SamplerOptions {
    std::int64_t batch_size = 1;  // rows of the global batch, over all ranks
    std::int64_t block_size = 1;  // targets in a window
    std::uint64_t seed = 0;
    std::int64_t rank = 0;
    std::int64_t world_size = 1;
    Sampling sampling = Sampling::permutation;
};

class BatchSampler {
public:
    // Throws InputError for options that make no batch, or a split shorter than one window.
    BatchSampler(std::shared_ptr<const TokenShards> shards, const SamplerOptions& options);
    BatchSampler(const BatchSampler&) = delete;
    BatchSampler& operator=(const BatchSampler&) = delete;

    std::int64_t n_rows() const { return options_.batch_size / options_.world_size; }
    std::int64_t block_size() const { return options_.block_size; }
    std::int64_t tokens_per_epoch() const { return n_windows_ * options_.block_size; }

    // The first token of each of this rank's rows of the batch of `step`.
    // Throws InputError for a negative step or one beyond 2^63 samples.
    std::vector<std::int64_t> window_starts(std::int64_t step) const;

    // Fills n_rows() × block_size() inputs and as many targets, row after row.
    void fill(std::int64_t step, std::int64_t* inputs, std::int64_t* targets) const;

    // Has a thread bring the pages of `n_steps` steps from `step` on into memory and returns at
    // once; what fill() gives can't depend on it. The thread starts with the first call, and once
    // more in a process forked from this one. Steps out of range have no pages. Unlike the rest, not
    // to be called by two threads at a time.
    void read_ahead(std::int64_t step, std::int64_t n_steps = 1);

private:
    struct StopReadAhead {
        void operator()(ReadAhead* read_ahead) const;
    };

    std::int64_t last_step() const;

    std::shared_ptr<const TokenShards> shards_;
    SamplerOptions options_;
    std::int64_t n_windows_ = 0;  // W
    std::unique_ptr<ReadAhead, StopReadAhead> read_ahead_;  // last: it ends before what it reads
};

}  // namespace pygpt
