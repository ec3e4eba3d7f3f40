#!/usr/bin/env bash
# Fuzzes data/ under AddressSanitizer and UndefinedBehaviorSanitizer, with libFuzzer where there is
# a clang, else with the random mutations of standalone.cpp:
#   bash csrc/tests/fuzz/run.sh [INPUTS]      default: 100,000
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
inputs=${1:-100000}
build=../build/fuzz
mkdir -p "$build/corpus"

compile() {  # compiler, flags…
    "$1" -std=c++17 -O1 -g -Wall -Wextra -Werror -pthread -fno-sanitize-recover=all \
        -Dmmap=fuzz_mmap -Dmunmap=fuzz_munmap -Dmadvise=fuzz_madvise "${@:2}" \
        data/batch_sampler.cpp data/npy_header.cpp data/token_file.cpp tests/fuzz/target.cpp
}

# Freed blocks are kept for use-after-free to be seen; the default of 256 MB makes it ten times slower.
export ASAN_OPTIONS=quarantine_size_mb=4

compile "${CXX:-g++}" -fsanitize=address,undefined tests/fuzz/standalone.cpp -o "$build/standalone"
clang=$(compgen -c clang++ | sort -uV | tail -1)
if [[ -n $clang ]]; then
    compile "$clang" -fsanitize=fuzzer,address,undefined -o "$build/libfuzzer"
    "$build/standalone" --write-seeds "$build/corpus"
    "$build/libfuzzer" -runs="$inputs" -max_len=4096 -timeout=300 -verbosity=0 \
        -dict=tests/fuzz/shards.dict -artifact_prefix="$build/" -print_final_stats=1 "$build/corpus"
else
    "$build/standalone" "$inputs"
fi
