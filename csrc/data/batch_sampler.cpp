#include "batch_sampler.hpp"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <thread>
#include <utility>

namespace pygpt {

namespace {

// The output function of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
// generators", 2014, figure 17 with the constants of its Mix13 variant): a bijection of 64 bits.
std::uint64_t mix(std::uint64_t bits) {
    bits += 0x9e3779b97f4a7c15;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
    return bits ^ (bits >> 31);
}

// What a hash is for, so that two uses of the same seed share no numbers.
enum class Purpose : std::uint64_t { round_key, shift, random_start };

std::uint64_t keyed_hash(Purpose purpose, std::uint64_t seed, std::uint64_t a, std::uint64_t b) {
    return mix(mix(mix(mix(static_cast<std::uint64_t>(purpose)) ^ seed) ^ a) ^ b);
}

// Maps 64 random bits to [0, n): Lemire, "Fast random integer generation in an interval", 2019,
// without its rejection step, which would remove a bias of n / 2^64.
std::int64_t scale(std::uint64_t bits, std::int64_t n) {
    return static_cast<std::int64_t>((static_cast<unsigned __int128>(bits) * n) >> 64);
}

// A keyed permutation of [0, n): a balanced Feistel network over the next power of four, walked
// until it lands below n, which takes fewer than four turns on average (Black and Rogaway, "Ciphers
// with arbitrary finite domains", 2002, section 3).
class Permutation {
public:
    Permutation(std::int64_t n, std::uint64_t seed, std::uint64_t epoch)
        : n_(static_cast<std::uint64_t>(n)) {
        while (half_bits_ < 31 && (std::uint64_t{1} << (2 * half_bits_)) < n_) ++half_bits_;
        for (std::size_t round = 0; round < round_keys_.size(); ++round) {
            round_keys_[round] = keyed_hash(Purpose::round_key, seed, epoch, round);
        }
    }

    std::int64_t operator()(std::int64_t place) const {
        auto value = static_cast<std::uint64_t>(place);
        do value = shuffle(value); while (value >= n_);
        return static_cast<std::int64_t>(value);
    }

private:
    std::uint64_t shuffle(std::uint64_t value) const {
        std::uint64_t left = value >> half_bits_;
        std::uint64_t right = value & ((std::uint64_t{1} << half_bits_) - 1);
        for (const std::uint64_t key : round_keys_) {
            left ^= mix(right ^ key) >> (64 - half_bits_);
            std::swap(left, right);
        }
        return left << half_bits_ | right;
    }

    std::uint64_t n_;
    int half_bits_ = 1;
    // Four rounds make a strong permutation (Luby and Rackoff 1988) of large halves; the halves of
    // a small split have few bits, and six rounds cost 20 ns more.
    std::array<std::uint64_t, 6> round_keys_;
};

// The windows of one epoch in the order they are visited.
class EpochOrder {
public:
    EpochOrder(std::int64_t n_tokens, std::int64_t n_windows, std::int64_t block_size,
               std::uint64_t seed, std::int64_t epoch)
        : permutation_(n_windows, seed, static_cast<std::uint64_t>(epoch)),
          block_size_(block_size),
          shift_(scale(keyed_hash(Purpose::shift, seed, static_cast<std::uint64_t>(epoch), 0),
                       n_tokens - n_windows * block_size)) {}

    std::int64_t window_start(std::int64_t place) const {
        return shift_ + permutation_(place) * block_size_;
    }

private:
    Permutation permutation_;
    std::int64_t block_size_;
    std::int64_t shift_;
};

std::string range(std::int64_t from, std::int64_t to) {
    return std::to_string(from) + " to " + std::to_string(to);
}

void check(const SamplerOptions& options, std::int64_t n_tokens) {
    const auto [batch_size, block_size, seed, rank, world_size, sampling] = options;
    if (batch_size < 1) {
        throw InputError("batch_size " + std::to_string(batch_size) + " must be at least 1");
    }
    if (block_size < 1) {
        throw InputError("block_size " + std::to_string(block_size) + " must be at least 1");
    }
    if (world_size < 1) {
        throw InputError("world_size " + std::to_string(world_size) + " must be at least 1");
    }
    if (rank < 0 || rank >= world_size) {
        throw InputError("rank " + std::to_string(rank) + " is outside a world of " +
                         std::to_string(world_size) + "; accepted is " + range(0, world_size - 1));
    }
    if (batch_size % world_size != 0) {
        const auto ranks = static_cast<std::uint64_t>(world_size);  // unsigned: the sum fits
        const std::uint64_t below = static_cast<std::uint64_t>(batch_size) / ranks * ranks;
        throw InputError("batch_size " + std::to_string(batch_size) + " can't be shared by " +
                         std::to_string(world_size) + " ranks; the nearest that can " +
                         (below > 0 ? "are " + std::to_string(below) + " and " : "is ") +
                         std::to_string(below + ranks));
    }
    if (block_size >= n_tokens) {
        throw InputError("the split has " + std::to_string(n_tokens) +
                         " tokens and one window of block_size " + std::to_string(block_size) +
                         " takes " + std::to_string(block_size) +
                         " + 1; use more text or a smaller block_size");
    }
}

}  // namespace

Sampling parse_sampling(const std::string& name) {
    if (name == "permutation") return Sampling::permutation;
    if (name == "random") return Sampling::random;
    throw InputError("sampling '" + name + "' is none of 'permutation', 'random'");
}

// A thread that brings the pages of some batches after others into memory.
class ReadAhead {
public:
    struct Steps {  // begin <= step < end
        std::int64_t begin = 0;
        std::int64_t end = 0;
    };

    ReadAhead(const BatchSampler& sampler, const TokenShards& shards)
        : sampler_(sampler), shards_(shards) {
        // Signals are the main thread's: a Ctrl-C taken here would not wake it from a wait.
        sigset_t all, before;
        ::sigfillset(&all);
        ::pthread_sigmask(SIG_SETMASK, &all, &before);
        thread_ = std::thread([this] { run(); });
        ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }

    ~ReadAhead() {
        {
            const std::lock_guard lock(mutex_);
            stop_ = true;
        }
        wake_.notify_one();
        thread_.join();
    }

    // A request that was not begun is replaced: its batches are being filled by now.
    void request(Steps steps) {
        {
            const std::lock_guard lock(mutex_);
            requested_ = steps;
        }
        wake_.notify_one();
    }

    bool belongs_to_this_process() const { return process_ == ::getpid(); }

private:
    void run() {
        give_way();
        std::unique_lock lock(mutex_);
        while (true) {
            wake_.wait(lock, [this] { return stop_ || requested_.begin < requested_.end; });
            if (stop_) return;
            const Steps steps = std::exchange(requested_, Steps{});
            lock.unlock();
            bring(steps);
            lock.lock();
        }
    }

    // Has Linux not put this thread in the caller's place when it is woken: on a busy machine that
    // made the caller wait 40 µs for every batch.
    static void give_way() {
#ifdef __linux__
        const sched_param no_priority{};
        ::pthread_setschedparam(::pthread_self(), SCHED_BATCH, &no_priority);
#endif
    }

    // First all the advice, so that the disk has all windows in its queue, then the waiting.
    void bring(Steps steps) const {
        std::vector<std::int64_t> starts;
        for (std::int64_t step = steps.begin; step < steps.end; ++step) {
            const auto of_step = sampler_.window_starts(step);
            starts.insert(starts.end(), of_step.begin(), of_step.end());
        }
        const std::int64_t length = sampler_.block_size() + 1;
        for (const std::int64_t start : starts) shards_.advise(start, length);
        for (const std::int64_t start : starts) {
            if (stop_) return;
            shards_.touch(start, length);
        }
    }

    const BatchSampler& sampler_;
    const TokenShards& shards_;
    const ::pid_t process_ = ::getpid();
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<bool> stop_ = false;
    Steps requested_;
    std::thread thread_;
};

BatchSampler::BatchSampler(std::shared_ptr<const TokenShards> shards, const SamplerOptions& options)
    : shards_(std::move(shards)), options_(options) {
    const std::int64_t n_tokens = shards_->n_tokens();
    check(options_, n_tokens);
    n_windows_ = std::max<std::int64_t>(1, (n_tokens - options_.block_size) / options_.block_size);
}

void BatchSampler::StopReadAhead::operator()(ReadAhead* read_ahead) const {
    // After a fork the thread is the parent's alone: here it can't be joined, so it is let go.
    if (read_ahead->belongs_to_this_process()) delete read_ahead;
}

std::int64_t BatchSampler::last_step() const {
    return std::numeric_limits<std::int64_t>::max() / options_.batch_size - 1;
}

std::vector<std::int64_t> BatchSampler::window_starts(std::int64_t step) const {
    if (step < 0 || step > last_step()) {
        throw InputError("step " + std::to_string(step) + " is out of range; accepted is " +
                         range(0, last_step()));
    }
    const std::int64_t n_tokens = shards_->n_tokens();
    const std::int64_t first_row = options_.rank * n_rows();
    std::vector<std::int64_t> starts(static_cast<std::size_t>(n_rows()));
    if (options_.sampling == Sampling::random) {
        for (std::int64_t row = 0; row < n_rows(); ++row) {
            const auto bits =
                keyed_hash(Purpose::random_start, options_.seed, static_cast<std::uint64_t>(step),
                           static_cast<std::uint64_t>(first_row + row));
            starts[static_cast<std::size_t>(row)] = scale(bits, n_tokens - options_.block_size);
        }
        return starts;
    }
    const std::int64_t first_sample = step * options_.batch_size + first_row;
    std::int64_t epoch = first_sample / n_windows_;
    std::int64_t place = first_sample % n_windows_;
    EpochOrder order(n_tokens, n_windows_, options_.block_size, options_.seed, epoch);
    for (std::int64_t& start : starts) {
        if (place == n_windows_) {
            place = 0;
            order = EpochOrder(n_tokens, n_windows_, options_.block_size, options_.seed, ++epoch);
        }
        start = order.window_start(place++);
    }
    return starts;
}

void BatchSampler::fill(std::int64_t step, std::int64_t* inputs, std::int64_t* targets) const {
    const auto starts = window_starts(step);
    for (std::size_t row = 0; row < starts.size(); ++row) {
        // Windows lie far apart, and without this every one begins by waiting for memory:
        // 12 × 1,024 out of a 1.4 GB file take 8 µs with it and 13 µs without.
        if (row + 1 < starts.size()) shards_->prefetch(starts[row + 1], options_.block_size + 1);
        shards_->read_pair(starts[row], options_.block_size, inputs, targets);
        inputs += options_.block_size;
        targets += options_.block_size;
    }
}

void BatchSampler::read_ahead(std::int64_t step, std::int64_t n_steps) {
    if (step < 0 || n_steps < 1 || step > last_step() - n_steps + 1) return;
    if (read_ahead_ && !read_ahead_->belongs_to_this_process()) read_ahead_.reset();
    if (!read_ahead_) read_ahead_.reset(new ReadAhead(*this, *shards_));
    read_ahead_->request({step, step + n_steps});
}

}  // namespace pygpt
