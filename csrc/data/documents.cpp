#include "documents.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace pygpt {
namespace {

constexpr std::size_t kBlockBytes = 128;
constexpr std::uint64_t kInitial[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
constexpr std::uint8_t kOrder[10][16] = {  // of the words of a block, in each round
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

// The text that a lane is at.
struct Lane {
    const std::uint8_t* next = nullptr;
    std::size_t left = 0;
    std::uint64_t hashed = 0;  // bytes, those of the block to come included
    bool last = false;         // whether that is the last block
    Digest* out = nullptr;     // null: the lane has nothing to do
    std::uint8_t padded[kBlockBytes] = {};
};

// The next block of a lane; the key is the first.
const std::uint8_t* next_block(Lane& lane, std::string_view key) {
    if (lane.hashed == 0) {
        std::memset(lane.padded, 0, kBlockBytes);
        std::memcpy(lane.padded, key.data(), key.size());
        lane.hashed = kBlockBytes;
        lane.last = lane.left == 0;
        return lane.padded;
    }
    const std::uint8_t* block = lane.next;
    const std::size_t size = std::min(lane.left, kBlockBytes);
    if (size < kBlockBytes) {
        std::memset(lane.padded, 0, kBlockBytes);
        std::memcpy(lane.padded, block, size);
        block = lane.padded;
    }
    lane.next += size;
    lane.left -= size;
    lane.hashed += size;
    lane.last = lane.left == 0;
    return block;
}

template <int N>
using Words [[gnu::vector_size(8 * N)]] = std::uint64_t;

#define PYGPT_INLINE [[gnu::always_inline]] inline

template <int N, int Bits>
PYGPT_INLINE void rotate(Words<N>& word) {
    word = (word >> Bits) | (word << (64 - Bits));
}

// RFC 7693, section 3.1: the mixing function G.
template <int N>
PYGPT_INLINE void mix(Words<N>* v, int a, int b, int c, int d, const Words<N>& x,
                      const Words<N>& y) {
    v[a] += v[b] + x;
    v[d] ^= v[a];
    rotate<N, 32>(v[d]);
    v[c] += v[d];
    v[b] ^= v[c];
    rotate<N, 24>(v[b]);
    v[a] += v[b] + y;
    v[d] ^= v[a];
    rotate<N, 16>(v[d]);
    v[c] += v[d];
    v[b] ^= v[c];
    rotate<N, 63>(v[b]);
}

// Section 3.2: the compression function F, of a block in each lane.
template <int N>
PYGPT_INLINE void compress(Words<N>* h, const Words<N>* block, const Words<N>& hashed,
                           const Words<N>& last) {
    Words<N> v[16];
    for (int i = 0; i < 8; ++i) {
        v[i] = h[i];
        v[i + 8] = Words<N>{} + kInitial[i];
    }
    v[12] ^= hashed;
    v[14] ^= last;
#pragma GCC unroll 12
    for (int round = 0; round < 12; ++round) {
        const std::uint8_t* order = kOrder[round % 10];
        for (int i = 0; i < 4; ++i) {
            mix<N>(v, i, i + 4, i + 8, i + 12, block[order[2 * i]], block[order[2 * i + 1]]);
        }
        for (int i = 0; i < 4; ++i) {
            mix<N>(v, i, (i + 1) % 4 + 4, (i + 2) % 4 + 8, (i + 3) % 4 + 12,
                   block[order[8 + 2 * i]], block[order[9 + 2 * i]]);
        }
    }
    for (int i = 0; i < 8; ++i) h[i] ^= v[i] ^ v[i + 8];
}

struct Job {
    const std::vector<std::string_view>& texts;
    std::string_view key;
    std::vector<std::size_t> order;  // longest first: the lanes are done at about the same time
    std::vector<Digest>& digests;
};

template <int N>
PYGPT_INLINE void hash_in_lanes(const Job& job) {
    Lane lanes[N];
    Words<N> h[8] = {};
    std::size_t taken = 0, working = 0;
    const auto take_text = [&](int i) {
        lanes[i] = Lane{};
        if (taken == job.order.size()) return;
        const std::size_t index = job.order[taken++];
        lanes[i].next = reinterpret_cast<const std::uint8_t*>(job.texts[index].data());
        lanes[i].left = job.texts[index].size();
        lanes[i].out = &job.digests[index];
        for (int word = 0; word < 8; ++word) h[word][i] = kInitial[word];
        // Section 2.5: 16 bytes of digest, the key's length, one leaf.
        h[0][i] ^= 0x01010000 ^ (job.key.size() << 8) ^ sizeof(Digest);
        ++working;
    };
    for (int i = 0; i < N; ++i) take_text(i);
    while (working > 0) {
        Words<N> block[16] = {}, hashed = {}, last = {};
        for (int i = 0; i < N; ++i) {
            if (!lanes[i].out) continue;
            const std::uint8_t* bytes = next_block(lanes[i], job.key);
            std::uint64_t words[16];  // little-endian, as this machine is
            std::memcpy(words, bytes, kBlockBytes);
            for (int word = 0; word < 16; ++word) block[word][i] = words[word];
            hashed[i] = lanes[i].hashed;
            last[i] = lanes[i].last ? ~std::uint64_t{0} : 0;
        }
        compress<N>(h, block, hashed, last);
        for (int i = 0; i < N; ++i) {
            if (!lanes[i].last) continue;
            const std::uint64_t digest[2] = {h[0][i], h[1][i]};
            std::memcpy(lanes[i].out->data(), digest, sizeof digest);
            --working;
            take_text(i);
        }
    }
}

#if defined(__x86_64__)
[[gnu::target("avx512f")]] void hash_avx512(const Job& job) { hash_in_lanes<8>(job); }
[[gnu::target("avx2")]] void hash_avx2(const Job& job) { hash_in_lanes<4>(job); }
#endif
void hash_generic(const Job& job) { hash_in_lanes<2>(job); }

}  // namespace

int widest_lanes() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return 8;
    if (__builtin_cpu_supports("avx2")) return 4;
#endif
    return 2;
}

std::vector<Digest> keyed_hashes(const std::vector<std::string_view>& texts, std::string_view key,
                                 int lanes) {
    std::vector<Digest> digests(texts.size());
    Job job{texts, key, std::vector<std::size_t>(texts.size()), digests};
    std::iota(job.order.begin(), job.order.end(), std::size_t{0});
    std::stable_sort(job.order.begin(), job.order.end(), [&](std::size_t a, std::size_t b) {
        return texts[a].size() > texts[b].size();
    });
#if defined(__x86_64__)
    if (lanes == 8) {
        hash_avx512(job);
        return digests;
    }
    if (lanes == 4) {
        hash_avx2(job);
        return digests;
    }
#endif
    (void)lanes;
    hash_generic(job);
    return digests;
}

}  // namespace pygpt
