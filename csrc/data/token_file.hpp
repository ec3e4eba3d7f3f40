// Token ids on disk, mapped read-only and bounds-checked.
//
//   TokenFile    one shard, in one of three formats
//   TokenShards  shards in order, read as one long row of ids
//
// The formats, told apart by their first bytes and, failing that, the file's name:
//
//   raw    ids and nothing else (nanoGPT's train.bin); the caller says uint16 or uint32
//   llm.c  a header of 256 int32 {magic, version, tokens, 0…}, then the ids:
//          magic 20240520 version 1 holds uint16, magic 20240801 version 7 holds uint32
//   npy    NumPy's format, versions 1 to 3: '<u2' or '<u4', one dimension, C order
//
// All of it is little-endian, as the machine has to be.

#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace pygpt {

// Something the user gave can't be used; the message is meant for them.
class InputError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// How an id is stored; the value is its width in bytes.
enum class IdType : std::int64_t { uint16 = 2, uint32 = 4 };

IdType parse_id_type(const std::string& name);  // "uint16" or "uint32"; else InputError
const char* to_string(IdType type);

enum class FileFormat { raw, llmc, npy };

const char* to_string(FileFormat format);

class TokenFile {
public:
    // Maps the file and checks that its size is what its format promises.
    // Throws InputError naming the file, what was found and what would be accepted.
    TokenFile(const std::string& path, IdType raw_type);
    TokenFile(TokenFile&& other) noexcept;
    TokenFile(const TokenFile&) = delete;
    TokenFile& operator=(const TokenFile&) = delete;
    TokenFile& operator=(TokenFile&&) = delete;
    ~TokenFile();

    const std::string& path() const { return path_; }
    FileFormat format() const { return format_; }
    IdType id_type() const { return id_type_; }
    std::int64_t n_tokens() const { return n_tokens_; }
    std::int64_t data_offset() const { return data_offset_; }  // bytes in front of the first id

    // The first stored id; n_tokens() of them follow each other, aligned to their width.
    const void* ids() const { return static_cast<const char*>(map_) + data_offset_; }

private:
    void interpret(IdType raw_type);
    void interpret_raw(IdType raw_type);
    void interpret_llmc(std::int32_t magic);
    void interpret_npy();
    void expect_size(const std::string& promised) const;

    std::string path_;
    void* map_ = nullptr;
    std::int64_t map_bytes_ = 0;
    FileFormat format_ = FileFormat::raw;
    IdType id_type_ = IdType::uint16;
    std::int64_t n_tokens_ = 0;
    std::int64_t data_offset_ = 0;
};

class TokenShards {
public:
    // Opens every shard; at least one. Throws InputError as TokenFile does.
    TokenShards(const std::vector<std::string>& paths, IdType raw_type);

    std::int64_t n_tokens() const { return first_.back(); }
    const std::vector<TokenFile>& files() const { return files_; }

    // Widens ids [start, start + length) into out. Throws std::out_of_range beyond the ends.
    void read(std::int64_t start, std::int64_t length, std::int64_t* out) const;

    // A training window: inputs gets ids [start, start + length), targets the same one id on.
    void read_pair(std::int64_t start, std::int64_t length, std::int64_t* inputs,
                   std::int64_t* targets) const;

    // Asks the processor to bring the first ids from `start` on into its cache; returns at once.
    void prefetch(std::int64_t start, std::int64_t length) const;

    // Asks the kernel to start reading the pages of ids [start, start + length); returns at once.
    void advise(std::int64_t start, std::int64_t length) const;

    // Reads one byte of each of those pages, so that they are in memory and mapped here.
    void touch(std::int64_t start, std::int64_t length) const;

private:
    template <typename Visit>
    void for_each_piece(std::int64_t start, std::int64_t length, Visit visit) const;

    std::vector<TokenFile> files_;
    std::vector<std::int64_t> first_;  // first_[i]: tokens in front of shard i; then the total
};

}  // namespace pygpt
