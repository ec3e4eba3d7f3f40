// The native ops for AVX-512 F, BW, DQ and VL.
#define PYGPT_LANES 16
#include "isa_table.hpp"

namespace pygpt::cpu {

const Kernels avx512_kernels = level_kernels();

}  // namespace pygpt::cpu
