#!/usr/bin/env bash
# Builds the core's tests twice and runs them: under AddressSanitizer with
# UndefinedBehaviorSanitizer, then under ThreadSanitizer. Needs a C++17 compiler, nothing else:
#   bash csrc/tests/run.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=../build/core_tests
mkdir -p "$build"

run() {  # name, compiler flags…
    local name=$1
    shift
    echo "== $name"
    "${CXX:-g++}" -std=c++17 -O1 -g -Wall -Wextra -Werror -pthread -fno-sanitize-recover=all "$@" \
        batch_sampler.cpp npy_header.cpp token_file.cpp tests/*.cpp -o "$build/$name"
    "$build/$name"
}

run address -fsanitize=address,undefined
run thread -fsanitize=thread
