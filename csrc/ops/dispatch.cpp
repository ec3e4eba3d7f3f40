// Chooses the instruction set, splits an op over threads, and calls the instruction set's functions.
#include "dispatch.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <thread>

namespace pygpt::cpu {
namespace {

struct NamedLevel {
    const char* name;
    Level level;
};

constexpr NamedLevel kLevels[] = {
        {"generic", Level::generic}, {"avx2", Level::avx2}, {"avx512", Level::avx512}};

bool runs_here(Level level) {
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (level == Level::avx2) return avx2;
    if (level == Level::avx512) {
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    }
#endif
    return level == Level::generic;
}

// What GCC's OpenMP calls for a parallel region: function(data) on `threads` threads at once.
using ParallelRegion = void (*)(void (*function)(void*), void* data, unsigned threads,
                                unsigned flags);

// That of the OpenMP library which PyTorch has loaded (LLVM's has it too); null in a program without
// one. The threads of a second pool would wait for cores on which PyTorch's spin for the next op:
// there, a second thread made 2 M elements of softmax no faster.
ParallelRegion pytorch_pool() {
    static const auto pool = reinterpret_cast<ParallelRegion>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return pool;
}

// Calls work(begin, end) over [0, size) in pieces of `grain` from up to `threads` threads, with at
// least kElementsPerThread elements for each; an index is `width` elements. A thread takes the next
// piece when it is free: rows differ in length, and cores in what else they do.
template <typename Work>
void parallel_for(std::int64_t size, std::int64_t width, std::int64_t grain, int threads,
                  Work work) {
    constexpr std::int64_t kElementsPerThread = 1 << 14;  // 10 µs of work
    std::atomic<std::int64_t> next{0};
    auto take_pieces = [&] {
        for (;;) {
            const std::int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
            if (begin >= size) return;
            work(begin, std::min(begin + grain, size));
        }
    };
    const std::int64_t useful =
        std::min((size + grain - 1) / grain, size * width / kElementsPerThread);
    const auto call = [](void* data) { (*static_cast<decltype(take_pieces)*>(data))(); };
    on_threads(static_cast<int>(std::clamp<std::int64_t>(useful, 1, threads)), call, &take_pieces);
}

// Calls row_kernel(tile, row) for every row of `width` elements, about `piece` elements at a time.
template <typename Tile>
void for_each_row(const Tile& tile, std::int64_t rows, std::int64_t width, std::int64_t piece,
                  int threads, void (*row_kernel)(const Tile&, std::int64_t)) {
    width = std::max<std::int64_t>(1, width);
    const std::int64_t grain = std::max<std::int64_t>(1, piece / width);
    parallel_for(rows, width, grain, threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) row_kernel(tile, row);
    });
}

// Rows a thread takes at a time, and over which it sums the gradient of the bias.
constexpr std::int64_t kGeluRows = 64;

}  // namespace

const Kernels& kernels(Level level) {
#if defined(__x86_64__)
    if (level == Level::avx512) return avx512_kernels;
    if (level == Level::avx2) return avx2_kernels;
#endif
    (void)level;
    return generic_kernels;
}

void on_threads(int threads, void (*function)(void*), void* data) {
    if (threads > 1 && pytorch_pool()) {
        pytorch_pool()(function, data, static_cast<unsigned>(threads), 0);
        return;
    }
    std::vector<std::thread> helpers;
    for (int i = 1; i < threads; ++i) helpers.emplace_back(function, data);
    function(data);
    for (std::thread& helper : helpers) helper.join();
}

std::vector<std::string> supported_levels() {
    std::vector<std::string> names;
    for (const NamedLevel& entry : kLevels) {
        if (runs_here(entry.level)) names.emplace_back(entry.name);
    }
    return names;
}

Level parse_level(const std::string& name) {
    for (const NamedLevel& entry : kLevels) {
        if (name == entry.name && runs_here(entry.level)) return entry.level;
    }
    std::string have;
    for (const std::string& level : supported_levels()) have += (have.empty() ? "" : ", ") + level;
    throw std::invalid_argument("CPU level '" + name + "' can't run here; this CPU has " + have);
}

void cross_entropy_rows(const CrossEntropyTile& tile, int threads, Level level) {
    const auto row_kernel = kernels(level).cross_entropy_row;
    for_each_row(tile, tile.rows, tile.vocab, 1 << 15, threads, row_kernel);
}

void accumulate(float* sum, const std::uint16_t* addend, std::int64_t size, int threads,
                Level level) {
    const auto add = kernels(level).accumulate;
    parallel_for(size, 1, 1 << 18, threads, [&](std::int64_t begin, std::int64_t end) {
        add(sum, addend, begin, end);
    });
}

void gelu(const GeluInput& input, void* y, int threads, Level level) {
    const auto rows = kernels(level).gelu_rows;
    const auto work = [&](std::int64_t begin, std::int64_t end) { rows(input, y, begin, end); };
    parallel_for(input.rows, input.width, kGeluRows, threads, work);
}

void gelu_backward(const GeluInput& input, const void* dy, void* dx, float* dbias, int threads,
                   Level level) {
    const Kernels& table = kernels(level);
    const std::int64_t size = table.partial_size(input.width);
    const std::int64_t parts = (input.rows + kGeluRows - 1) / kGeluRows;
    std::vector<float> partials(dbias ? parts * size : 0);
    const auto work = [&](std::int64_t begin, std::int64_t end) {
        float* const partial = dbias ? partials.data() + begin / kGeluRows * size : nullptr;
        table.gelu_backward_rows(input, dy, dx, partial, begin, end);
    };
    parallel_for(input.rows, input.width, kGeluRows, threads, work);
    if (dbias) table.sum_partials(partials.data(), parts, input.width, input.bfloat16, dbias);
}

void attention_backward_rows(const AttentionTile& tile, int threads, Level level) {
    const auto row_kernel = kernels(level).attention_backward_row;
    for_each_row(tile, tile.heads * tile.positions, tile.positions, 1 << 14, threads, row_kernel);
}

std::uint64_t read_memory(const void* memory, std::int64_t size, std::int64_t piece, int threads,
                          Level level) {
    const auto read = kernels(level).read_range;
    std::atomic<std::uint64_t> result{0};
    parallel_for(size, 1, piece, threads, [&](std::int64_t begin, std::int64_t end) {
        result ^= read(static_cast<const char*>(memory) + begin, end - begin);
    });
    return result;
}

}  // namespace pygpt::cpu
