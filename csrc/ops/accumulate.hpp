// sum += addend, for an fp32 sum and a bf16 addend.
#pragma once

#include "ops.hpp"
#include "simd.hpp"

namespace pygpt::cpu {
namespace {

void accumulate_range(float* sum, const BFloat16* addend, std::int64_t begin, std::int64_t end) {
    std::int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) store(sum + i, load(sum + i) + load(addend + i));
    for (; i < end; ++i) sum[i] += to_float(addend[i]);
}

}  // namespace
}  // namespace pygpt::cpu
