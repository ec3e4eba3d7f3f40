#!/usr/bin/env bash
# Builds and runs the tests of data/ and of ops/ twice: with AddressSanitizer and
# UndefinedBehaviorSanitizer, then with ThreadSanitizer. Needs a C++17 compiler, nothing else:
#   bash csrc/tests/run.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=../build/core_tests
mkdir -p "$build"

compile() {  # flags…
    "${CXX:-g++}" -std=c++17 -O1 -g -Wall -Wextra -Werror -pthread -ffp-contract=fast \
        -fno-sanitize-recover=all "$@" -ldl
}

data() {  # name, sanitizer
    compile "$2" data/batch_sampler.cpp data/documents.cpp data/npy_header.cpp data/token_file.cpp \
        tests/data/main.cpp tests/data/test_batch_sampler.cpp tests/data/test_documents.cpp \
        tests/data/test_token_file.cpp -o "$build/data-$1"
    "$build/data-$1"
}

ops() {  # name, sanitizer; each level with its own instructions, as in CMakeLists.txt
    local levels=()
    if [[ $(uname -m) == x86_64 ]]; then
        levels=("$build/avx2.o" "$build/avx512.o")
        compile "$2" -mavx2 -mfma -c ops/isa_avx2.cpp -o "${levels[0]}"
        compile "$2" -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -c ops/isa_avx512.cpp \
            -o "${levels[1]}"
    fi
    compile "$2" ops/decode_step.cpp ops/dispatch.cpp tests/ops/test_ops.cpp "${levels[@]}" \
        -o "$build/ops-$1"
    "$build/ops-$1"
}

for sanitizer in address,undefined thread; do
    echo "== $sanitizer"
    data "${sanitizer%%,*}" "-fsanitize=$sanitizer"
    ops "${sanitizer%%,*}" "-fsanitize=$sanitizer"
done
