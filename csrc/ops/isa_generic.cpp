// The native ops for any CPU: SSE2 on x86-64, NEON on arm64.
#define PYGPT_LANES 4
#include "isa_table.hpp"

namespace pygpt::cpu {

const Kernels generic_kernels = level_kernels();

}  // namespace pygpt::cpu
