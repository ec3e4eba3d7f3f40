// Fuzz target of data/: shards of any bytes, then a batch sampler with any options over them.
//
// Built with -Dmmap=fuzz_mmap and so on (run.sh): a shard is "mapped" into a heap block of exactly
// its size, so that AddressSanitizer sees a read of one byte too many. A real mapping ends with a
// page of zeros.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../data/batch_sampler.hpp"
#include "../../data/token_file.hpp"

extern "C" {

void* fuzz_mmap(void*, std::size_t bytes, int, int, int fd, off_t) noexcept {
    void* block = nullptr;
    if (::posix_memalign(&block, 4096, bytes) != 0) std::abort();
    if (::pread(fd, block, bytes, 0) != static_cast<ssize_t>(bytes)) std::abort();
    return block;
}

int fuzz_munmap(void* block, std::size_t) noexcept {
    std::free(block);
    return 0;
}

int fuzz_madvise(void*, std::size_t, int) noexcept { return 0; }

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

}  // extern "C"

namespace {

using namespace pygpt;

constexpr std::size_t max_shards = 3;

#define REQUIRE(condition)                                                        \
    do {                                                                          \
        if (!(condition)) {                                                       \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);  \
            std::abort();                                                         \
        }                                                                         \
    } while (false)

// Takes numbers off the end of the input, so that its start stays the start of a file.
class Input {
public:
    Input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

    std::uint8_t byte() { return size_ > 0 ? data_[--size_] : 0; }

    // Small numbers mostly, every 64-bit number sometimes: the first byte says how many follow.
    std::int64_t number() {
        const int n_bytes = byte() % 10;
        std::uint64_t value = 0;
        for (int at = 0; at < std::min(n_bytes, 8); ++at) value = value << 8 | byte();
        if (n_bytes == 9) value = ~value;
        std::int64_t result;
        std::memcpy(&result, &value, sizeof result);
        return result;
    }

    std::string rest() const { return {reinterpret_cast<const char*>(data_), size_}; }

private:
    const std::uint8_t* data_;
    std::size_t size_;
};

// Files in memory that are overwritten by each input, by the names they are opened with.
struct MemoryFile {
    MemoryFile() : fd(::memfd_create("shard", 0)) { REQUIRE(fd >= 0); }

    std::string write(const std::string& bytes) const {
        REQUIRE(::ftruncate(fd, 0) == 0);
        REQUIRE(::pwrite(fd, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
        return "/proc/self/fd/" + std::to_string(fd);
    }

    int fd;
};

std::int64_t id_at(const std::string& bytes, const TokenFile& file, std::int64_t at) {
    const auto offset = static_cast<std::size_t>(file.data_offset());
    if (file.id_type() == IdType::uint16) {
        std::uint16_t id;
        std::memcpy(&id, bytes.data() + offset + 2 * static_cast<std::size_t>(at), sizeof id);
        return id;
    }
    std::uint32_t id;
    std::memcpy(&id, bytes.data() + offset + 4 * static_cast<std::size_t>(at), sizeof id);
    return id;
}

// What the shards hold, read from the bytes without the code under test.
std::vector<std::int64_t> expected_ids(const TokenShards& shards,
                                       const std::vector<std::string>& contents) {
    std::vector<std::int64_t> ids;
    for (std::size_t shard = 0; shard < contents.size(); ++shard) {
        const TokenFile& file = shards.files()[shard];
        const auto width = static_cast<std::int64_t>(file.id_type());
        const auto n_bytes = static_cast<std::int64_t>(contents[shard].size());
        REQUIRE(file.data_offset() + file.n_tokens() * width == n_bytes);
        for (std::int64_t at = 0; at < file.n_tokens(); ++at) {
            ids.push_back(id_at(contents[shard], file, at));
        }
    }
    return ids;
}

void check_window(const TokenShards& shards, const std::vector<std::int64_t>& ids,
                  std::int64_t start, std::int64_t length) {
    const auto n = static_cast<std::int64_t>(ids.size());
    const bool inside = start >= 0 && length >= 0 && start <= n && length <= n - start;
    std::vector<std::int64_t> out(inside ? static_cast<std::size_t>(length) : 0);
    try {
        shards.read(start, length, out.data());
        shards.advise(start, length);
        shards.prefetch(start, length);
        shards.touch(start, length);
        REQUIRE(inside);
    } catch (const std::out_of_range&) {
        REQUIRE(!inside);
        return;
    }
    REQUIRE(std::equal(out.begin(), out.end(), ids.begin() + start));
}

void check_batch(const BatchSampler& sampler, const SamplerOptions& options,
                 const std::vector<std::int64_t>& ids, std::int64_t step) {
    const auto n = static_cast<std::int64_t>(ids.size());
    const auto starts = sampler.window_starts(step);
    REQUIRE(static_cast<std::int64_t>(starts.size()) * options.world_size == options.batch_size);
    for (const std::int64_t start : starts) {
        REQUIRE(start >= 0 && start < n - options.block_size);
    }
    const auto block = static_cast<std::size_t>(options.block_size);
    std::vector<std::int64_t> inputs(starts.size() * block), targets(starts.size() * block);
    sampler.fill(step, inputs.data(), targets.data());
    for (std::size_t row = 0; row < starts.size(); ++row) {
        const auto from = ids.begin() + starts[row];
        REQUIRE(std::equal(from, from + options.block_size, inputs.data() + row * block));
        REQUIRE(std::equal(from + 1, from + 1 + options.block_size, targets.data() + row * block));
    }
    const std::int64_t windows = sampler.tokens_per_epoch() / options.block_size;
    const std::int64_t place = (step * options.batch_size) % windows;
    if (options.sampling == Sampling::permutation && options.world_size == 1 &&
        place + options.batch_size <= windows) {  // within one epoch no window comes twice
        REQUIRE(std::set<std::int64_t>(starts.begin(), starts.end()).size() == starts.size());
    }
}

void check_sampler(Input& input, const std::shared_ptr<const TokenShards>& shards,
                   const std::vector<std::int64_t>& ids) {
    SamplerOptions options;
    options.batch_size = input.number();
    options.block_size = input.number();
    options.seed = static_cast<std::uint64_t>(input.number());
    options.world_size = input.number();
    options.rank = input.number();
    options.sampling = input.byte() % 2 == 0 ? Sampling::permutation : Sampling::random;
    const std::int64_t step = input.number();
    const BatchSampler sampler(shards, options);
    const std::int64_t rows = options.batch_size / options.world_size;
    if (rows > 256 || options.block_size > 4096) return;  // Python refuses what memory can't hold
    check_batch(sampler, options, ids, step);
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const std::array<MemoryFile, max_shards> files;
    Input input(data, size);
    const std::size_t n_shards = 1 + input.byte() % max_shards;
    const IdType raw_type = input.byte() % 2 == 0 ? IdType::uint16 : IdType::uint32;
    const std::int64_t start = input.number(), length = input.number();
    Input options = input;  // the sampler's options are read from what is the last shard's end
    const std::string rest = input.rest();

    std::vector<std::string> contents, paths;
    for (std::size_t shard = 0; shard < n_shards; ++shard) {
        const std::size_t from = rest.size() * shard / n_shards;
        const std::size_t to = rest.size() * (shard + 1) / n_shards;
        contents.push_back(rest.substr(from, to - from));
        paths.push_back(files[shard].write(contents.back()));
    }
    try {
        const auto shards = std::make_shared<const TokenShards>(paths, raw_type);
        const auto ids = expected_ids(*shards, contents);
        REQUIRE(static_cast<std::int64_t>(ids.size()) == shards->n_tokens());
        check_window(*shards, ids, 0, shards->n_tokens());
        check_window(*shards, ids, start, length);
        check_sampler(options, shards, ids);
    } catch (const InputError&) {
    }
    return 0;
}
