// The table of functions that one instruction set gives to dispatch.cpp. Included by isa_*.cpp only.
#pragma once

#include "accumulate.hpp"
#include "attention.hpp"
#include "cross_entropy.hpp"
#include "decode.hpp"
#include "dispatch.hpp"
#include "gelu.hpp"
#include "linear.hpp"
#include "read.hpp"

namespace pygpt::cpu {
namespace {

Kernels level_kernels() {
    return {cross_entropy_row, accumulate_range, gelu_rows,
            gelu_backward_rows, partial_size, sum_partials,
            attention_backward_row, linear_rows, arrange,
            arranged_size, embed, layer_norm_row,
            attend_head, read_range};
}

}  // namespace
}  // namespace pygpt::cpu
