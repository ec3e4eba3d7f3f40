// What `prepare` does with each document of a batch: its hash, and its place among the ids.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pygpt {

using Digest = std::array<std::uint8_t, 16>;

// BLAKE2b (RFC 7693) of each text, 16 bytes, with one key of 1 to 64 bytes.
//
// A text is a chain of blocks, so one text can't use the lanes of a vector; several texts can, each
// in a lane of its own. lanes: 2, or 4 (AVX2) and 8 (AVX-512) up to widest_lanes().
std::vector<Digest> keyed_hashes(const std::vector<std::string_view>& texts, std::string_view key,
                                 int lanes);

// What this CPU has.
int widest_lanes();

// Writes rows of ids side by side in the type of the shards.
//
// ids: of all rows. offsets: (n_rows + 1,) where each begins, and the end. ends: (n_rows,) whether
// `separator` follows the row. out: as many ids as rows and separators have.
template <typename Id>
void join_rows(const std::uint32_t* ids, const std::int64_t* offsets, const bool* ends,
               std::int64_t n_rows, Id separator, Id* out) {
    for (std::int64_t row = 0; row < n_rows; ++row) {
        for (std::int64_t i = offsets[row]; i < offsets[row + 1]; ++i) *out++ = Id(ids[i]);
        if (ends[row]) *out++ = separator;
    }
}

}  // namespace pygpt
