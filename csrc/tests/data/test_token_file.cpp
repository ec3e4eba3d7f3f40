// Shards: the formats, windows over borders, and every file that must be refused.

#include "testing.hpp"

#include <algorithm>
#include <limits>
#include <utility>

namespace {

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
    return std::string("\x93NUMPY\x01\x00", 8) + bytes_of(std::vector<std::uint16_t>{length}) +
           text;
}

std::string npy_1d(const std::string& descr, std::size_t n) {
    return npy_header("{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" +
                      std::to_string(n) + ",), }");
}

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
        expect_error<std::out_of_range>(PLACE, [&] { shards->read(first, count, out); },
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
    EXPECT_INPUT_ERROR(open("a.bin", llmc_header(20240520, 1, 3) + four), "1032", "1030",
                       "followed");
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
    EXPECT_INPUT_ERROR(open("a.npy", "\x93NUMPY\x09" + npy_1d("<u2", 4).substr(7) + four),
                       "version 9");
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
            const auto header_bytes = std::min<std::size_t>(bytes.size(), 90);
            for (std::int64_t flips = draw(0, 3); flips > 0; --flips) {
                const auto at = draw(0, static_cast<std::int64_t>(header_bytes) - 1);
                bytes[static_cast<std::size_t>(at)] = static_cast<char>(draw(0, 255));
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

}  // namespace

void test_token_file() {
    formats_are_read();
    windows_cross_borders();
    windows_outside_are_refused();
    broken_files_are_named();
    damaged_headers_never_crash();
}
