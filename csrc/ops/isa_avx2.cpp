// The native ops for AVX2 and FMA.
#define PYGPT_LANES 8
#include "isa_table.hpp"

namespace pygpt::cpu {

const Kernels avx2_kernels = level_kernels();

}  // namespace pygpt::cpu
