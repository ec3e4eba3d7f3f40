// Hashes in every number of lanes that this CPU has, and rows side by side.

#include "../../data/documents.hpp"

#include <algorithm>
#include <string_view>

#include "testing.hpp"

namespace {

std::string hex(const Digest& digest) {
    std::string text;
    for (const std::uint8_t byte : digest) {
        text += "0123456789abcdef"[byte >> 4];
        text += "0123456789abcdef"[byte & 15];
    }
    return text;
}

void hashes_are_blake2b() {
    // By hashlib.blake2b(text, key=b"0", digest_size=16) of Python 3.11.
    const std::vector<std::pair<std::string, std::string>> known = {
        {"", "a2434a72a935c60f66638fd5f581b163"}, {"abc", "6e9cdeabed93b0be2bd393f0d1b15a78"}, {std::string(128, 'x'), "dab8debeb24639cc2262c1ddcc8b993e"},
        {std::string(129, 'x'), "69276130cf8ba8f8ce2864723f223659"}, {std::string(100'000, 'x'), "3c05d9cd3c8ddc6c20a8fd42fe9fcf56"}};
    for (int lanes = 2; lanes <= widest_lanes(); lanes *= 2) {
        for (const auto& [text, digest] : known) {
            EXPECT(hex(keyed_hashes({text}, "0", lanes)[0]) == digest);
        }
    }
}

void lanes_change_nothing() {
    std::vector<std::string> texts;
    for (int i = 0; i < 100; ++i) {
        std::string text(static_cast<std::size_t>(draw(0, 700)), '\0');
        for (char& byte : text) byte = static_cast<char>(draw(0, 255));
        texts.push_back(text);
    }
    const std::vector<std::string_view> views(texts.begin(), texts.end());
    const std::string key(static_cast<std::size_t>(draw(1, 64)), 'k');
    for (int lanes = 2; lanes <= widest_lanes(); lanes *= 2) {
        const std::vector<Digest> together = keyed_hashes(views, key, lanes);
        for (std::size_t i = 0; i < texts.size(); ++i) {
            EXPECT(together[i] == keyed_hashes({views[i]}, key, 2)[0]);
        }
    }
    EXPECT(keyed_hashes({}, key, 2).empty());
}

void rows_are_joined() {
    const std::vector<std::uint32_t> ids = {1, 2, 3, 4, 5};
    const std::vector<std::int64_t> offsets = {0, 2, 2, 5};
    const bool ends[] = {true, false, true};
    std::vector<std::uint16_t> out(7);
    join_rows<std::uint16_t>(ids.data(), offsets.data(), ends, 3, 9, out.data());
    EXPECT((out == std::vector<std::uint16_t>{1, 2, 9, 3, 4, 5, 9}));
}

}  // namespace

void test_documents() {
    hashes_are_blake2b();
    lanes_change_nothing();
    rows_are_joined();
}
