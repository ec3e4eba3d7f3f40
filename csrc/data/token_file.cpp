#include "token_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "npy_header.hpp"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "shards are little-endian and are mapped as they are: pygpt needs a little-endian machine"
#endif

namespace pygpt {

namespace {

// The magics can't open a raw file of real ids: read as uint16 they start with 55,432 and 55,713,
// both beyond GPT-2's vocabulary, and read as uint32 with an id above 20 million.
constexpr std::int32_t llmc_magic_uint16 = 20240520;
constexpr std::int32_t llmc_magic_uint32 = 20240801;
constexpr std::int64_t llmc_header_bytes = 256 * sizeof(std::int32_t);

constexpr std::string_view npy_magic = "\x93NUMPY";

std::int64_t width(IdType type) { return static_cast<std::int64_t>(type); }

std::string quoted(std::string_view text) { return "'" + std::string(text) + "'"; }

// Bytes of a file as a message can show them: what is not printable becomes '?', the rest is cut.
std::string printable(std::string_view bytes) {
    constexpr std::size_t longest = 120;
    std::string text(bytes.substr(0, longest));
    for (char& byte : text) {
        if (byte < ' ' || byte > '~') byte = '?';
    }
    return bytes.size() > longest ? text + "..." : text;
}

bool ends_with(std::string_view text, std::string_view end) {
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

template <typename T>
T load(const void* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

std::string system_error(const std::string& path, const char* what) {
    return path + ": can't " + what + " (" + std::strerror(errno) + ")";
}

// A descriptor that is closed at the end of the scope; a mapping outlives it.
struct Descriptor {
    int fd;
    ~Descriptor() { ::close(fd); }
};

// Each id is loaded twice rather than loaded once and stored twice: with the stores in step the
// compiler's plain SSE2 loop makes 1.8 G tokens/s of 12 windows of 1,024, out of step 1.2 G.
// AVX-512 would make 2.1 G; that is not worth a choice at run time.
template <typename Id>
void widen_pair(const Id* __restrict ids, std::int64_t length, std::int64_t* __restrict inputs,
                std::int64_t* __restrict targets) {
    for (std::int64_t i = 0; i < length; ++i) {
        inputs[i] = ids[i];
        targets[i] = ids[i + 1];
    }
}

// Calls use(pointer to the file's ids at `first`) with the type they are stored in.
template <typename Use>
void with_ids(const TokenFile& file, std::int64_t first, Use use) {
    if (file.id_type() == IdType::uint16) {
        use(static_cast<const std::uint16_t*>(file.ids()) + first);
    } else {
        use(static_cast<const std::uint32_t*>(file.ids()) + first);
    }
}

constexpr std::int64_t cache_line_bytes = 64;
// Beyond this the processor has seen the row it is in and fetches ahead by itself.
constexpr std::int64_t prefetch_bytes = 4096;

struct Pages {
    char* begin;
    std::size_t bytes;
};

std::size_t page_bytes() {
    static const auto size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    return size;
}

// From the start of the page that holds id `first`; a mapping starts on a page, so this is in it.
Pages pages_of(const TokenFile& file, std::int64_t first, std::int64_t count) {
    const char* ids = static_cast<const char*>(file.ids());
    const char* from = ids + first * width(file.id_type());
    const char* to = from + count * width(file.id_type());
    const auto into_page = reinterpret_cast<std::uintptr_t>(from) % page_bytes();
    from -= into_page;
    return {const_cast<char*>(from), static_cast<std::size_t>(to - from)};
}

}  // namespace

IdType parse_id_type(const std::string& name) {
    if (name == "uint16") return IdType::uint16;
    if (name == "uint32") return IdType::uint32;
    throw InputError("ids of type " + quoted(name) + " can't be read; 'uint16' and 'uint32' can");
}

const char* to_string(IdType type) { return type == IdType::uint16 ? "uint16" : "uint32"; }

const char* to_string(FileFormat format) {
    switch (format) {
        case FileFormat::llmc: return "llm.c";
        case FileFormat::npy: return "npy";
        case FileFormat::raw: break;
    }
    return "raw";
}

// --- TokenFile -----------------------------------------------------------------------------------

TokenFile::TokenFile(const std::string& path, IdType raw_type) : path_(path) {
    const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    if (file.fd < 0) throw InputError(system_error(path, "open it"));

    struct stat status{};
    if (::fstat(file.fd, &status) != 0) throw InputError(system_error(path, "read its size"));
    if (!S_ISREG(status.st_mode)) throw InputError(path + " is not a file");
    if (status.st_size == 0) {
        throw InputError(path + " is empty; prepare the dataset again");
    }
    map_bytes_ = status.st_size;
    map_ = ::mmap(nullptr, static_cast<std::size_t>(map_bytes_), PROT_READ, MAP_SHARED, file.fd, 0);
    if (map_ == MAP_FAILED) {
        map_ = nullptr;
        throw InputError(system_error(path, "map it"));
    }
    // Windows lie anywhere, and reading around each one is wasted: on a cold 1.4 GB file it made
    // the slowest of 150 batches take 70 to 90 ms, without it 1 to 5 ms (12 × 1,024, read ahead).
    ::madvise(map_, static_cast<std::size_t>(map_bytes_), MADV_RANDOM);
    try {
        interpret(raw_type);
        if (n_tokens_ == 0) throw InputError(path_ + " holds no tokens; prepare the dataset again");
    } catch (...) {
        ::munmap(map_, static_cast<std::size_t>(map_bytes_));
        throw;
    }
}

TokenFile::TokenFile(TokenFile&& other) noexcept
    : path_(std::move(other.path_)),
      map_(std::exchange(other.map_, nullptr)),
      map_bytes_(other.map_bytes_),
      format_(other.format_),
      id_type_(other.id_type_),
      n_tokens_(other.n_tokens_),
      data_offset_(other.data_offset_) {}

TokenFile::~TokenFile() {
    if (map_ != nullptr) ::munmap(map_, static_cast<std::size_t>(map_bytes_));
}

void TokenFile::interpret(IdType raw_type) {
    const auto* bytes = static_cast<const char*>(map_);
    const auto size = static_cast<std::size_t>(map_bytes_);
    if (size >= npy_magic.size() && std::string_view(bytes, npy_magic.size()) == npy_magic) {
        return interpret_npy();
    }
    if (ends_with(path_, ".npy")) {
        throw InputError(path_ + " does not start as a NumPy array; write it with numpy.save");
    }
    const auto magic = size >= sizeof(std::int32_t) ? load<std::int32_t>(bytes) : 0;
    if (magic == llmc_magic_uint16 || magic == llmc_magic_uint32) return interpret_llmc(magic);
    interpret_raw(raw_type);
}

void TokenFile::interpret_raw(IdType raw_type) {
    format_ = FileFormat::raw;
    id_type_ = raw_type;
    if (map_bytes_ % width(raw_type) != 0) {
        throw InputError(path_ + " has " + std::to_string(map_bytes_) +
                         " bytes, which is no whole number of " + to_string(raw_type) +
                         " ids: it is cut off or of another type; prepare the dataset again");
    }
    n_tokens_ = map_bytes_ / width(raw_type);
}

void TokenFile::interpret_llmc(std::int32_t magic) {
    format_ = FileFormat::llmc;
    data_offset_ = llmc_header_bytes;
    if (map_bytes_ < llmc_header_bytes) {
        throw InputError(path_ + " starts as an llm.c shard and has " + std::to_string(map_bytes_) +
                         " bytes, fewer than the header's 1024: it is cut off; fetch or prepare it"
                         " again");
    }
    const auto* header = static_cast<const char*>(map_);
    const auto version = load<std::int32_t>(header + 4);
    const std::int32_t expected_version = magic == llmc_magic_uint16 ? 1 : 7;
    if (version != expected_version) {
        throw InputError(path_ + " is an llm.c shard (magic " + std::to_string(magic) +
                         ") of version " + std::to_string(version) + "; version " +
                         std::to_string(expected_version) + " can be read");
    }
    id_type_ = magic == llmc_magic_uint16 ? IdType::uint16 : IdType::uint32;
    n_tokens_ = load<std::int32_t>(header + 8);
    if (n_tokens_ < 0) {
        throw InputError(path_ + ": the llm.c header says " + std::to_string(n_tokens_) +
                         " tokens; it is damaged, fetch or prepare it again");
    }
    expect_size("its llm.c header");
}

void TokenFile::interpret_npy() {
    format_ = FileFormat::npy;
    const auto* bytes = static_cast<const char*>(map_);
    // Magic, major and minor version, then the header's length in 2 bytes (version 1) or 4.
    const int version = map_bytes_ > 6 ? static_cast<unsigned char>(bytes[6]) : 1;
    if (version < 1 || version > 3) {
        throw InputError(path_ + " is a NumPy file of version " + std::to_string(version) +
                         "; versions 1 to 3 can be read");
    }
    const std::int64_t preamble = version == 1 ? 10 : 12;
    std::int64_t header_bytes = 0;
    if (map_bytes_ >= preamble) {
        header_bytes =
            version == 1 ? load<std::uint16_t>(bytes + 8) : load<std::uint32_t>(bytes + 8);
    }
    data_offset_ = preamble + header_bytes;
    if (map_bytes_ < data_offset_) {
        throw InputError(path_ + " ends inside its NumPy header: it is cut off; prepare it again");
    }
    const std::string accepted =
        "; accepted is a one-dimensional little-endian array in C order of uint16 ('<u2') or uint32"
        " ('<u4'), for instance numpy.save(path, ids.astype(numpy.uint16))";
    const std::string_view text(bytes + preamble, static_cast<std::size_t>(header_bytes));
    const auto header = parse_npy_header(text);
    if (!header) {
        const auto end = std::min(text.find_last_not_of(" \n") + 1, text.size());
        throw InputError(path_ + " holds the array " + printable(text.substr(0, end)) + accepted);
    }
    if (header->descr != "<u2" && header->descr != "<u4") {
        throw InputError(path_ + " holds ids of type " + quoted(printable(header->descr)) + accepted);
    }
    if (header->fortran_order) throw InputError(path_ + " is in Fortran order" + accepted);
    id_type_ = header->descr == "<u2" ? IdType::uint16 : IdType::uint32;
    if (data_offset_ % width(id_type_) != 0) {
        throw InputError(path_ + ": the ids start at byte " + std::to_string(data_offset_) +
                         ", which is not aligned; write it with numpy.save");
    }
    n_tokens_ = header->length;
    expect_size("its NumPy header");
}

void TokenFile::expect_size(const std::string& promised_by) const {
    const std::int64_t promised = data_offset_ + n_tokens_ * width(id_type_);
    if (map_bytes_ == promised) return;
    throw InputError(path_ + " has " + std::to_string(map_bytes_) + " bytes and " + promised_by +
                     " promises " + std::to_string(promised) + " (" + std::to_string(n_tokens_) +
                     " tokens of " + to_string(id_type_) + "): it is " +
                     (map_bytes_ < promised ? "cut off" : "followed by something else") +
                     "; fetch or prepare it again");
}

// --- TokenShards ---------------------------------------------------------------------------------

TokenShards::TokenShards(const std::vector<std::string>& paths, IdType raw_type) : first_{0} {
    if (paths.empty()) throw InputError("a dataset needs at least one shard and none was given");
    files_.reserve(paths.size());
    for (const auto& path : paths) {
        files_.emplace_back(path, raw_type);
        first_.push_back(first_.back() + files_.back().n_tokens());
    }
}

// Calls visit(file, first id in the file, count, offset in the window) for each shard's part.
template <typename Visit>
void TokenShards::for_each_piece(std::int64_t start, std::int64_t length, Visit visit) const {
    // Not start + length > n_tokens(), which can overflow.
    if (start < 0 || length < 0 || start > n_tokens() || length > n_tokens() - start) {
        throw std::out_of_range("window of " + std::to_string(length) + " ids from " +
                                std::to_string(start) + " is outside the split's " +
                                std::to_string(n_tokens()));
    }
    auto shard = static_cast<std::size_t>(
        std::upper_bound(first_.begin(), first_.end(), start) - first_.begin() - 1);
    for (std::int64_t done = 0; done < length; ++shard) {
        const std::int64_t first = start + done - first_[shard];
        const std::int64_t count = std::min(length - done, files_[shard].n_tokens() - first);
        visit(files_[shard], first, count, done);
        done += count;
    }
}

void TokenShards::read(std::int64_t start, std::int64_t length, std::int64_t* out) const {
    for_each_piece(start, length, [out](const TokenFile& file, std::int64_t first,
                                        std::int64_t count, std::int64_t offset) {
        with_ids(file, first, [&](const auto* ids) { std::copy(ids, ids + count, out + offset); });
    });
}

void TokenShards::read_pair(std::int64_t start, std::int64_t length, std::int64_t* inputs,
                            std::int64_t* targets) const {
    for_each_piece(start, length + 1, [&](const TokenFile& file, std::int64_t first,
                                          std::int64_t count, std::int64_t offset) {
        if (count == length + 1) {
            with_ids(file, first,
                     [&](const auto* ids) { widen_pair(ids, length, inputs, targets); });
        } else if (offset == 0) {  // the window crosses a border: two plain reads serve it
            read(start, length, inputs);
            read(start + 1, length, targets);
        }
    });
}

void TokenShards::advise(std::int64_t start, std::int64_t length) const {
    for_each_piece(start, length,
                   [](const TokenFile& file, std::int64_t first, std::int64_t count, std::int64_t) {
                       const Pages pages = pages_of(file, first, count);
                       ::madvise(pages.begin, pages.bytes, MADV_WILLNEED);  // only advice
                   });
}

void TokenShards::prefetch(std::int64_t start, std::int64_t length) const {
    for_each_piece(start, length,
                   [](const TokenFile& file, std::int64_t first, std::int64_t count, std::int64_t) {
                       const char* ids = static_cast<const char*>(file.ids());
                       const std::int64_t from = first * width(file.id_type());
                       const std::int64_t to = (first + count) * width(file.id_type());
                       for (std::int64_t at = from; at < std::min(to, from + prefetch_bytes);
                            at += cache_line_bytes) {
                           __builtin_prefetch(ids + at);
                       }
                   });
}

void TokenShards::touch(std::int64_t start, std::int64_t length) const {
    for_each_piece(start, length,
                   [](const TokenFile& file, std::int64_t first, std::int64_t count, std::int64_t) {
                       const Pages pages = pages_of(file, first, count);
                       for (std::size_t at = 0; at < pages.bytes; at += page_bytes()) {
                           static_cast<void>(*static_cast<const volatile char*>(pages.begin + at));
                       }
                   });
}

}  // namespace pygpt
