// The Python dictionary that NumPy writes in front of an array, for instance
//
//   {'descr': '<u2', 'fortran_order': False, 'shape': (1234,), }

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pygpt {

struct NpyHeader {
    std::string descr;  // the element type, as NumPy spells it
    bool fortran_order = false;
    std::int64_t length = 0;
};

// Nothing when the text is not such a dictionary of a one-dimensional array, to the letter.
std::optional<NpyHeader> parse_npy_header(std::string_view text);

}  // namespace pygpt
