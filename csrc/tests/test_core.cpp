// Tests of the compiled core without Python: formats, bounds, the order of windows, threads.
// Run by csrc/tests/run.sh. Every run draws fresh inputs; PYGPT_TEST_SEED repeats one.

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "../batch_sampler.hpp"
#include "../token_file.hpp"

namespace fs = std::filesystem;
using namespace pygpt;

namespace {

// --- a tiny reporter -----------------------------------------------------------------------------

int failures = 0;

#define EXPECT(condition)                                                              \
    do {                                                                               \
        if (!(condition)) {                                                            \
            ++failures;                                                                \
            std::cerr << __FILE__ << ":" << __LINE__ << ": " << #condition << "\n";    \
        }                                                                              \
    } while (false)

// The call must throw Error with a message that holds every one of `parts`.
template <typename Error>
void expect_error(int line, const std::function<void()>& call,
                  const std::vector<std::string>& parts) {
    try {
        call();
    } catch (const Error& error) {
        const std::string message = error.what();
        for (const auto& part : parts) {
            if (message.find(part) == std::string::npos) {
                ++failures;
                std::cerr << "line " << line << ": no '" << part << "' in: " << message << "\n";
            }
        }
        return;
    }
    ++failures;
    std::cerr << "line " << line << ": no error\n";
}

#define EXPECT_INPUT_ERROR(call, ...) \
    expect_error<InputError>(__LINE__, [&] { call; }, std::vector<std::string>{__VA_ARGS__})

// --- shards in a folder of their own -------------------------------------------------------------

std::mt19937_64 random_bits;

std::int64_t draw(std::int64_t from, std::int64_t to) {
    return std::uniform_int_distribution<std::int64_t>(from, to)(random_bits);
}

class Folder {
public:
    Folder() {
        std::string name = (fs::temp_directory_path() / "pygpt-core-XXXXXX").string();
        if (::mkdtemp(name.data()) == nullptr) std::abort();
        path_ = name;
    }
    ~Folder() { fs::remove_all(path_); }

    std::string write(const std::string& name, const std::string& bytes) const {
        const fs::path path = path_ / name;
        std::ofstream(path, std::ios::binary) << bytes;
        return path.string();
    }
    std::string path(const std::string& name) const { return (path_ / name).string(); }

private:
    fs::path path_;
};

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
    return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

template <typename Id>
std::vector<Id> random_ids(std::int64_t n, Id largest) {
    std::vector<Id> ids(static_cast<std::size_t>(n));
    for (auto& id : ids) id = static_cast<Id>(draw(0, largest));
    return ids;
}

std::string llmc_header(std::int32_t magic, std::int32_t version, std::int32_t tokens) {
    std::vector<std::int32_t> header(256, 0);
    header[0] = magic;
    header[1] = version;
    header[2] = tokens;
    return bytes_of(header);
}

std::string npy_header(const std::string& dictionary) {
    std::string text = dictionary;
    while ((10 + text.size() + 1) % 64 != 0) text += ' ';
    text += '\n';
    const auto length = static_cast<std::uint16_t>(text.size());
    return std::string("\x93NUMPY\x01\x00", 8) + bytes_of(std::vector<std::uint16_t>{length}) + text;
}

std::string npy_1d(const std::string& descr, std::size_t n) {
    return npy_header("{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" +
                      std::to_string(n) + ",), }");
}

// Shards whose ids count up from zero, so that an id says where it was read.
std::shared_ptr<const TokenShards> counting_shards(const Folder& folder, std::int64_t n_tokens,
                                                   std::int64_t n_shards = 1) {
    std::vector<std::string> paths;
    std::vector<std::uint32_t> ids;
    for (std::int64_t token = 0; token < n_tokens; ++token) {
        ids.push_back(static_cast<std::uint32_t>(token));
        const auto shard = static_cast<std::int64_t>(paths.size());
        if (token + 1 == n_tokens * (shard + 1) / n_shards) {
            paths.push_back(folder.write("shard_" + std::to_string(shard) + ".bin", bytes_of(ids)));
            ids.clear();
        }
    }
    return std::make_shared<TokenShards>(paths, IdType::uint32);
}

using Batch = std::vector<std::int64_t>;  // the inputs, then the targets

Batch batch(const BatchSampler& sampler, std::int64_t step) {
    const auto half = static_cast<std::size_t>(sampler.n_rows() * sampler.block_size());
    Batch rows(2 * half);
    sampler.fill(step, rows.data(), rows.data() + half);
    return rows;
}

// --- token_file ----------------------------------------------------------------------------------

template <typename Id>
void expect_ids(const std::string& path, const std::vector<Id>& ids, FileFormat format) {
    const TokenShards shards({path}, IdType::uint16);
    EXPECT(shards.files()[0].format() == format);
    EXPECT(shards.n_tokens() == static_cast<std::int64_t>(ids.size()));
    std::vector<std::int64_t> read(ids.size());
    shards.read(0, shards.n_tokens(), read.data());
    EXPECT(std::equal(ids.begin(), ids.end(), read.begin()));
}

void formats_are_read() {
    const Folder folder;
    const auto small = random_ids<std::uint16_t>(draw(2, 5000), 65535);
    const auto large = random_ids<std::uint32_t>(draw(2, 5000), 4294967295);
    const auto n_small = static_cast<std::int32_t>(small.size());
    const auto n_large = static_cast<std::int32_t>(large.size());
    expect_ids(folder.write("raw.bin", bytes_of(small)), small, FileFormat::raw);
    expect_ids(folder.write("a.bin", llmc_header(20240520, 1, n_small) + bytes_of(small)), small,
               FileFormat::llmc);
    expect_ids(folder.write("b.bin", llmc_header(20240801, 7, n_large) + bytes_of(large)), large,
               FileFormat::llmc);
    expect_ids(folder.write("a.npy", npy_1d("<u2", small.size()) + bytes_of(small)), small,
               FileFormat::npy);
    expect_ids(folder.write("b.npy", npy_1d("<u4", large.size()) + bytes_of(large)), large,
               FileFormat::npy);
    const std::string raw32 = folder.write("raw32.bin", bytes_of(large));
    EXPECT(TokenFile(raw32, IdType::uint32).n_tokens() == n_large);
}

void windows_cross_borders() {
    const Folder folder;
    const std::int64_t n = draw(50, 400);
    const auto shards = counting_shards(folder, n, draw(2, 20));
    for (int i = 0; i < 200; ++i) {
        const std::int64_t start = draw(0, n - 2);
        const std::int64_t length = draw(1, n - 1 - start);
        const auto size = static_cast<std::size_t>(length);
        std::vector<std::int64_t> ids(size), inputs(size), targets(size);
        shards->read(start, length, ids.data());
        shards->read_pair(start, length, inputs.data(), targets.data());
        shards->advise(start, length);
        shards->touch(start, length);
        EXPECT(inputs == ids);
        for (std::size_t at = 0; at < size; ++at) {
            EXPECT(inputs[at] == start + static_cast<std::int64_t>(at));
            EXPECT(targets[at] == inputs[at] + 1);
        }
    }
}

void windows_outside_are_refused() {
    const Folder folder;
    const auto shards = counting_shards(folder, 10, 3);
    constexpr std::int64_t huge = std::numeric_limits<std::int64_t>::max();
    std::int64_t out[16];
    shards->read(10, 0, out);
    for (const auto& [start, length] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {0, 11}, {10, 1}, {-1, 2}, {3, -1}, {huge, 1}, {1, huge}, {11, 0}}) {
        const auto first = start, count = length;
        expect_error<std::out_of_range>(__LINE__, [&] { shards->read(first, count, out); },
                                        {"outside the split's 10"});
    }
}

void broken_files_are_named() {
    const Folder folder;
    const auto open = [&](const std::string& name, const std::string& bytes) {
        TokenFile(folder.write(name, bytes), IdType::uint16);
    };
    const std::string four(8, '\x01');
    EXPECT_INPUT_ERROR(TokenFile(folder.path("none.bin"), IdType::uint16), "none.bin", "No such");
    EXPECT_INPUT_ERROR(TokenFile(folder.path(""), IdType::uint16), "not a file");
    EXPECT_INPUT_ERROR(open("a.bin", ""), "a.bin", "empty");
    EXPECT_INPUT_ERROR(open("a.bin", "\x01\x02\x03"), "a.bin", "3 bytes", "uint16");
    EXPECT_INPUT_ERROR(open("a.bin", llmc_header(20240520, 1, 5) + four), "1032", "1034", "cut");
    EXPECT_INPUT_ERROR(open("a.bin", llmc_header(20240520, 1, 3) + four), "1032", "1030", "followed");
    EXPECT_INPUT_ERROR(open("a.bin", llmc_header(20240520, 2, 4) + four), "version 2", "version 1");
    EXPECT_INPUT_ERROR(open("a.bin", llmc_header(20240801, 1, 2) + four), "version 1", "version 7");
    EXPECT_INPUT_ERROR(open("a.bin", llmc_header(20240520, 1, -4) + four), "-4");
    EXPECT_INPUT_ERROR(open("a.bin", llmc_header(20240520, 1, 0)), "no tokens");
    EXPECT_INPUT_ERROR(open("a.bin", llmc_header(20240520, 1, 4).substr(0, 100)), "100", "header");
    EXPECT_INPUT_ERROR(open("a.npy", four), "NumPy");
    EXPECT_INPUT_ERROR(open("a.npy", npy_1d("<u2", 5) + four), "cut off", "NumPy header");
    EXPECT_INPUT_ERROR(open("a.npy", npy_1d("<u2", 3) + four), "followed");
    EXPECT_INPUT_ERROR(open("a.npy", npy_1d("<i4", 2) + four), "'<i4'", "'<u2'");
    EXPECT_INPUT_ERROR(open("a.npy", npy_1d(">u2", 4) + four), "'>u2'", "little-endian");
    EXPECT_INPUT_ERROR(open("a.npy", npy_1d("<u2", 0)), "no tokens");
    EXPECT_INPUT_ERROR(open("a.npy", "\x93NUMPY\x01"), "cut off");
    EXPECT_INPUT_ERROR(open("a.npy", npy_1d("<u2", 4).substr(0, 40)), "cut off");
    EXPECT_INPUT_ERROR(open("a.npy", "\x93NUMPY\x09" + npy_1d("<u2", 4).substr(7) + four), "version");
    for (const std::string shape : {"(2, 2)", "()", "(4)", "(-4,)", "(9999999999999999,)"}) {
        EXPECT_INPUT_ERROR(open("a.npy", npy_header("{'descr': '<u2', 'fortran_order': False, "
                                                    "'shape': " + shape + ", }") + four),
                           shape, "one-dimensional");
    }
    EXPECT_INPUT_ERROR(open("a.npy", npy_header("{'descr': '<u2', 'fortran_order': True, "
                                                "'shape': (4,), }") + four), "Fortran");
    EXPECT_INPUT_ERROR(TokenShards({}, IdType::uint16), "at least one");
    EXPECT_INPUT_ERROR(parse_id_type("int32"), "'int32'", "'uint16'");
}

// Any bytes give an error or a file that can be read from end to end; never a crash.
void damaged_headers_never_crash() {
    const Folder folder;
    const auto ids = bytes_of(random_ids<std::uint16_t>(20, 65535));
    for (const std::string& whole :
         {npy_1d("<u2", 20) + ids, llmc_header(20240520, 1, 20) + ids}) {
        for (int i = 0; i < 500; ++i) {
            std::string bytes = whole.substr(0, static_cast<std::size_t>(
                draw(0, 1) ? whole.size() : draw(1, static_cast<std::int64_t>(whole.size()))));
            for (std::int64_t flips = draw(0, 3); flips > 0; --flips) {
                const auto last = std::min<std::int64_t>(static_cast<std::int64_t>(bytes.size()), 90);
                bytes[static_cast<std::size_t>(draw(0, last - 1))] = static_cast<char>(draw(0, 255));
            }
            try {
                const TokenShards shards({folder.write("damaged.bin", bytes)}, IdType::uint16);
                std::vector<std::int64_t> out(static_cast<std::size_t>(shards.n_tokens()));
                shards.read(0, shards.n_tokens(), out.data());
            } catch (const InputError&) {
            }
        }
    }
}

// --- batch_sampler -------------------------------------------------------------------------------

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
    const BatchSampler sampler(counting_shards(folder, n), options(64, block_size, Sampling::random));
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

// A forked child has no read-ahead thread: it must neither wait for it nor do without one of its own.
void a_forked_child_goes_on() {
    const Folder folder;
    BatchSampler sampler(counting_shards(folder, 5000), options(4, 32));
    sampler.read_ahead(0);
    const Batch expected = batch(sampler, 7);
    const ::pid_t child = ::fork();
    if (child == 0) {
        ::alarm(20);  // a child that hangs dies of it
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

int main() {
    const char* given = std::getenv("PYGPT_TEST_SEED");
    const std::uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    random_bits.seed(seed);
    std::cout << "PYGPT_TEST_SEED=" << seed << std::endl;

    formats_are_read();
    windows_cross_borders();
    windows_outside_are_refused();
    broken_files_are_named();
    damaged_headers_never_crash();
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

    std::cout << (failures ? "FAILED: " + std::to_string(failures) : "passed") << std::endl;
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
