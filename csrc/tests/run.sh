#!/usr/bin/env bash
# Builds the tests of the core and of the native CPU ops twice and runs them: under AddressSanitizer with
# UndefinedBehaviorSanitizer, then under ThreadSanitizer. Needs a C++17 compiler, nothing else:
#   bash csrc/tests/run.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=../build/core_tests
mkdir -p "$build"

compile() {  # flags…
    "${CXX:-g++}" -std=c++17 -O1 -g -Wall -Wextra -Werror -pthread -ffp-contract=fast \
        -fno-sanitize-recover=all "$@" -ldl
}

core() {  # name, sanitizer
    compile "$2" data/batch_sampler.cpp data/npy_header.cpp data/token_file.cpp tests/test_core.cpp \
        tests/test_batch_sampler.cpp tests/test_token_file.cpp -o "$build/core-$1"
    "$build/core-$1"
}

cpu_ops() {  # name, sanitizer; each level with its own instructions, as in CMakeLists.txt
    local levels=()
    if [[ $(uname -m) == x86_64 ]]; then
        levels=("$build/avx2.o" "$build/avx512.o")
        compile "$2" -mavx2 -mfma -c ops/isa_avx2.cpp -o "${levels[0]}"
        compile "$2" -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -c ops/isa_avx512.cpp \
            -o "${levels[1]}"
    fi
    compile "$2" ops/dispatch.cpp tests/test_cpu_ops.cpp "${levels[@]}" -o "$build/cpu_ops-$1"
    "$build/cpu_ops-$1"
}

for sanitizer in address,undefined thread; do
    echo "== $sanitizer"
    core "${sanitizer%%,*}" "-fsanitize=$sanitizer"
    cpu_ops "${sanitizer%%,*}" "-fsanitize=$sanitizer"
done
