// Valid shards of each format, which the fuzzers start from.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

inline std::string raw_ids(std::size_t n, std::size_t width) {
    std::string bytes(n * width, '\0');
    for (std::size_t at = 0; at < n; ++at) bytes[at * width] = static_cast<char>(3 * at + 1);
    return bytes;
}

inline std::string llmc_shard(std::uint32_t magic, std::uint32_t version, std::uint32_t n,
                              std::size_t width) {
    std::string header(1024, '\0');
    const std::uint32_t fields[] = {magic, version, n};
    for (std::size_t field = 0; field < 3; ++field) {
        for (std::size_t byte = 0; byte < 4; ++byte) {
            header[4 * field + byte] = static_cast<char>(fields[field] >> (8 * byte));
        }
    }
    return header + raw_ids(n, width);
}

inline std::string npy_shard(char version, const std::string& descr, std::size_t n,
                             std::size_t width) {
    std::string text = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" +
                       std::to_string(n) + ",), }";
    const std::size_t preamble = version == 1 ? 10 : 12;
    while ((preamble + text.size() + 1) % 64 != 0) text += ' ';
    text += '\n';
    std::string start = std::string("\x93NUMPY") + version + '\0';
    for (std::size_t byte = 0; byte < preamble - 8; ++byte) {
        start += static_cast<char>(text.size() >> (8 * byte));
    }
    return start + text + raw_ids(n, width);
}

inline std::vector<std::string> seed_files() {
    return {
        raw_ids(60, 2),
        raw_ids(60, 4),
        llmc_shard(20240520, 1, 40, 2),
        llmc_shard(20240801, 7, 40, 4),
        npy_shard(1, "<u2", 50, 2),
        npy_shard(2, "<u4", 50, 4),
        npy_shard(3, "<u2", 50, 2),
    };
}
