// Batches: what an epoch visits, bad options, and threads.

#include "testing.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <set>
#include <thread>

#include "../../data/batch_sampler.hpp"

namespace {

using Batch = std::vector<std::int64_t>;  // the inputs, then the targets

Batch batch(const BatchSampler& sampler, std::int64_t step) {
    const auto half = static_cast<std::size_t>(sampler.n_rows() * sampler.block_size());
    Batch rows(2 * half);
    sampler.fill(step, rows.data(), rows.data() + half);
    return rows;
}

SamplerOptions options(std::int64_t batch_size, std::int64_t block_size,
                       Sampling sampling = Sampling::permutation) {
    SamplerOptions chosen;
    chosen.batch_size = batch_size;
    chosen.block_size = block_size;
    chosen.seed = random_bits();
    chosen.sampling = sampling;
    return chosen;
}

void an_epoch_takes_every_window_once() {
    const Folder folder;
    for (int i = 0; i < 30; ++i) {
        const std::int64_t block_size = draw(1, 9);
        const std::int64_t n = block_size + draw(1, 700);
        const std::int64_t n_windows = std::max<std::int64_t>(1, n / block_size - 1);
        const BatchSampler sampler(counting_shards(folder, n), options(n_windows, block_size));
        EXPECT(sampler.tokens_per_epoch() == n_windows * block_size);
        for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
            auto starts = sampler.window_starts(epoch);
            std::sort(starts.begin(), starts.end());
            EXPECT(starts.front() >= 0 && starts.back() + block_size < n);
            for (std::size_t w = 1; w < starts.size(); ++w) {
                EXPECT(starts[w] == starts[w - 1] + block_size);
            }
        }
    }
}

void every_token_is_a_target_in_some_epoch() {
    const Folder folder;
    const std::int64_t block_size = 4, n = draw(9, 40);
    const BatchSampler sampler(counting_shards(folder, n), options(1, block_size));
    std::set<std::int64_t> targets;
    for (std::int64_t step = 0; step < 4000; ++step) {
        const Batch rows = batch(sampler, step);
        targets.insert(rows.begin() + block_size, rows.end());
    }
    EXPECT(static_cast<std::int64_t>(targets.size()) == n - 1);  // the first has nothing before it
}

void ranks_share_the_global_batch() {
    const Folder folder;
    const auto shards = counting_shards(folder, draw(100, 2000), 3);
    for (const Sampling sampling : {Sampling::permutation, Sampling::random}) {
        const SamplerOptions whole = options(12, 8, sampling);
        const std::int64_t step = draw(0, 1000);
        for (const std::int64_t world_size : {1, 2, 3, 4, 6, 12}) {
            std::vector<std::int64_t> joined;
            for (std::int64_t rank = 0; rank < world_size; ++rank) {
                SamplerOptions part = whole;
                part.rank = rank;
                part.world_size = world_size;
                const auto starts = BatchSampler(shards, part).window_starts(step);
                joined.insert(joined.end(), starts.begin(), starts.end());
            }
            EXPECT(joined == BatchSampler(shards, whole).window_starts(step));
        }
    }
}

void random_windows_stay_inside() {
    const Folder folder;
    const std::int64_t n = 20, block_size = 16;
    const BatchSampler sampler(counting_shards(folder, n),
                               options(64, block_size, Sampling::random));
    std::set<std::int64_t> starts;
    for (std::int64_t step = 0; step < 20; ++step) {
        for (const std::int64_t start : sampler.window_starts(step)) starts.insert(start);
    }
    EXPECT((starts == std::set<std::int64_t>{0, 1, 2, 3}));
}

void bad_options_are_refused() {
    const Folder folder;
    const auto shards = counting_shards(folder, 100);
    const auto make = [&](std::int64_t batch_size, std::int64_t block_size, std::int64_t rank,
                          std::int64_t world_size) {
        BatchSampler(shards, SamplerOptions{batch_size, block_size, 0, rank, world_size,
                                            Sampling::permutation});
    };
    EXPECT_INPUT_ERROR(make(0, 8, 0, 1), "batch_size 0");
    EXPECT_INPUT_ERROR(make(8, 0, 0, 1), "block_size 0");
    EXPECT_INPUT_ERROR(make(8, 8, 0, 0), "world_size 0");
    EXPECT_INPUT_ERROR(make(8, 8, 2, 2), "rank 2", "0 to 1");
    EXPECT_INPUT_ERROR(make(8, 8, -1, 2), "rank -1");
    EXPECT_INPUT_ERROR(make(8, 8, 0, 3), "batch_size 8", "3 ranks", "6 and 9");
    EXPECT_INPUT_ERROR(make(2, 8, 0, 3), "the nearest that can is 3");
    EXPECT_INPUT_ERROR(make(8, 100, 0, 1), "100 tokens", "100 + 1");
    EXPECT_INPUT_ERROR(parse_sampling("shuffle"), "'shuffle'", "'random'");
    make(8, 99, 0, 1);

    const BatchSampler sampler(shards, options(8, 8));
    constexpr std::int64_t huge = std::numeric_limits<std::int64_t>::max();
    EXPECT_INPUT_ERROR(sampler.window_starts(-1), "step -1");
    EXPECT_INPUT_ERROR(sampler.window_starts(huge / 8), "step 1152921504606846975", "0 to");
    sampler.window_starts(huge / 8 - 1);
}

// --- threads -------------------------------------------------------------------------------------

void read_ahead_changes_nothing() {
    const Folder folder;
    const auto shards = counting_shards(folder, 60000, 4);
    const SamplerOptions chosen = options(8, 128);
    const BatchSampler plain(shards, chosen);
    BatchSampler ahead(shards, chosen);
    for (int i = 0; i < 200; ++i) {
        const std::int64_t step = draw(0, 1000);
        ahead.read_ahead(draw(0, 1000));
        EXPECT(batch(ahead, step) == batch(plain, step));
    }
    ahead.read_ahead(-1);
    ahead.read_ahead(std::numeric_limits<std::int64_t>::max());
}

void samplers_share_shards_between_threads() {
    const Folder folder;
    const auto shards = counting_shards(folder, 30000, 3);
    const SamplerOptions first = options(6, 64), second = options(4, 100, Sampling::random);
    std::vector<Batch> truth;
    const BatchSampler one(shards, first), two(shards, second);
    for (std::int64_t step = 0; step < 50; ++step) {
        truth.push_back(batch(one, step));
        truth.push_back(batch(two, step));
    }
    std::vector<int> wrong(4, 0);
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < wrong.size(); ++t) {
        threads.emplace_back([&, t] {
            BatchSampler own(shards, t % 2 ? second : first);
            for (std::int64_t i = 0; i < 50; ++i) {
                const std::int64_t step = t < 2 ? i : 49 - i;
                own.read_ahead(step + 1);
                const auto& expected = truth[static_cast<std::size_t>(2 * step) + t % 2];
                wrong[t] += batch(own, step) != expected;
                wrong[t] += batch(t % 2 ? two : one, step) != expected;  // and one used by many
            }
        });
    }
    for (auto& thread : threads) thread.join();
    for (const int count : wrong) EXPECT(count == 0);
}

void destruction_during_read_ahead() {
    const Folder folder;
    auto shards = counting_shards(folder, 200000);
    for (int i = 0; i < 200; ++i) {
        BatchSampler sampler(shards, options(64, 256));
        sampler.read_ahead(i);
        if (i % 2) sampler.read_ahead(i + 1);
    }
    BatchSampler last_owner(std::move(shards), options(64, 256));
    last_owner.read_ahead(0);
}

// A forked child has no read-ahead thread: it must not wait for the parent's.
void a_forked_child_goes_on() {
    const Folder folder;
    BatchSampler sampler(counting_shards(folder, 5000), options(4, 32));
    sampler.read_ahead(0);
    const Batch expected = batch(sampler, 7);
    const ::pid_t child = ::fork();
    if (child == 0) {
        ::alarm(120);  // a child that hangs dies of it
        sampler.read_ahead(7);
        ::_exit(batch(sampler, 7) == expected ? 0 : 1);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    EXPECT(batch(sampler, 7) == expected);
}

#if defined(__SANITIZE_THREAD__)
constexpr bool under_thread_sanitizer = true;
#else
constexpr bool under_thread_sanitizer = false;
#endif

}  // namespace

void test_batch_sampler() {
    an_epoch_takes_every_window_once();
    every_token_is_a_target_in_some_epoch();
    ranks_share_the_global_batch();
    random_windows_stay_inside();
    bad_options_are_refused();
    read_ahead_changes_nothing();
    samplers_share_shards_between_threads();
    destruction_during_read_ahead();
    // ThreadSanitizer itself does not allow new threads after a fork of a process with threads.
    if (!under_thread_sanitizer) a_forked_child_goes_on();
}
