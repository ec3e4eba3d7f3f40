// What the tests of the core share: a tiny reporter, fresh random numbers, shards in a folder.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../../data/token_file.hpp"

namespace fs = std::filesystem;
using namespace pygpt;

// Each file of tests has one of these; main.cpp calls them.
void test_token_file();
void test_batch_sampler();
void test_documents();

// --- a tiny reporter -----------------------------------------------------------------------------

inline int failures = 0;

#define PLACE (std::string(__FILE__) + ":" + std::to_string(__LINE__))

#define EXPECT(condition)                                                              \
    do {                                                                               \
        if (!(condition)) {                                                            \
            ++failures;                                                                \
            std::cerr << PLACE << ": " << #condition << "\n";                          \
        }                                                                              \
    } while (false)

// The call must throw Error with a message that holds every one of `parts`.
template <typename Error>
void expect_error(const std::string& place, const std::function<void()>& call,
                  const std::vector<std::string>& parts) {
    try {
        call();
    } catch (const Error& error) {
        const std::string message = error.what();
        for (const auto& part : parts) {
            if (message.find(part) == std::string::npos) {
                ++failures;
                std::cerr << place << ": no '" << part << "' in: " << message << "\n";
            }
        }
        return;
    }
    ++failures;
    std::cerr << place << ": no error\n";
}

#define EXPECT_INPUT_ERROR(call, ...) \
    expect_error<InputError>(PLACE, [&] { call; }, std::vector<std::string>{__VA_ARGS__})

// --- shards in a folder of their own -------------------------------------------------------------

inline std::mt19937_64 random_bits;

inline std::int64_t draw(std::int64_t from, std::int64_t to) {
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

// Shards whose ids count up from zero, so that an id says where it was read.
inline std::shared_ptr<const TokenShards> counting_shards(const Folder& folder,
                                                          std::int64_t n_tokens,
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
