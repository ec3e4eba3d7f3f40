#include "npy_header.hpp"

#include <algorithm>

namespace pygpt {

namespace {

// Takes the text apart from its start; every member says whether what it wants was there.
class Cursor {
public:
    explicit Cursor(std::string_view text) : rest_(text) {}

    bool take(std::string_view token) {
        skip_space();
        if (rest_.substr(0, token.size()) != token) return false;
        rest_.remove_prefix(token.size());
        return true;
    }

    bool take_string(std::string& value) {
        if (!take("'")) return false;
        const auto end = rest_.find('\'');
        if (end == std::string_view::npos) return false;
        value = rest_.substr(0, end);
        rest_.remove_prefix(end + 1);
        return true;
    }

    bool take_bool(bool& value) {
        value = take("True");
        return value || take("False");
    }

    bool take_number(std::int64_t& value) {
        skip_space();
        const auto digits = std::min(rest_.find_first_not_of("0123456789"), rest_.size());
        if (digits == 0 || digits > 15) return false;  // with 15, times a width can't overflow
        value = std::stoll(std::string(rest_.substr(0, digits)));
        rest_.remove_prefix(digits);
        return true;
    }

    bool at_end() {
        skip_space();
        return rest_.empty();
    }

private:
    void skip_space() {
        rest_.remove_prefix(std::min(rest_.find_first_not_of(" \n"), rest_.size()));
    }

    std::string_view rest_;
};

}  // namespace

std::optional<NpyHeader> parse_npy_header(std::string_view text) {
    Cursor cursor(text);
    NpyHeader header;
    bool seen_descr = false, seen_order = false, seen_shape = false;
    if (!cursor.take("{")) return std::nullopt;
    while (!cursor.take("}")) {
        std::string key;
        if (!cursor.take_string(key) || !cursor.take(":")) return std::nullopt;
        if (key == "descr") {
            seen_descr = cursor.take_string(header.descr);
        } else if (key == "fortran_order") {
            seen_order = cursor.take_bool(header.fortran_order);
        } else if (key == "shape") {
            seen_shape = cursor.take("(") && cursor.take_number(header.length) &&
                         cursor.take(",") && cursor.take(")");
        }
        // NumPy ends every entry with a comma. An entry that was not read to its end fails here.
        if (!cursor.take(",")) return std::nullopt;
    }
    if (!seen_descr || !seen_order || !seen_shape || !cursor.at_end()) return std::nullopt;
    return header;
}

}  // namespace pygpt
