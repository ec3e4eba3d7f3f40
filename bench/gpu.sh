#!/usr/bin/env bash
# Parity of the kernels on this machine's GPU, then every GPU benchmark.
#
#   bash bench/gpu.sh
#   NANOGPT=../nanoGPT bash bench/gpu.sh    # a checkout of nanoGPT is timed in the training steps too
#
# Results: bench/results/<gpu>-<date>-<name>.json, a plot beside each of the kernels', and
# all that was printed as <gpu>-<date>-gpu.log. Exit status: 0, 1 if a part failed or ran out of
# time (its results by then and the others' are there), 2 if there is no CUDA device.
#
# Under 8 minutes: each part has a share of 465 s, written where it is run, and besides it what the
# parts before have left of theirs. Most of the time goes into compiling, which torch and Triton
# remember: where a part runs out of time, a second run gets further.
set -uo pipefail
NANOGPT=${NANOGPT:+$(realpath "$NANOGPT")}
cd "$(dirname "$0")/.." || exit
export PYTHONUNBUFFERED=1

prefix=$(PYTHONPATH=bench python -c '
import sys, torch
from lib import report
if not torch.cuda.is_available():
    sys.exit("bench/gpu.sh needs a CUDA device and there is none")
print(report.results_path(torch.device("cuda"), "").with_suffix(""))') || exit 2

planned=15 # for the question above
parts=()
failed=0

# run NAME SHARE COMMAND...: a part, in its share of seconds and what is left of the earlier ones'.
run() {
    local name=$1 began=$SECONDS status=0 outcome=ok
    planned=$((planned + $2))
    local limit=$((planned - SECONDS))
    shift 2
    printf '\n=== %s (at most %d s)\n' "$name" "$limit"
    timeout --kill-after=5 "$limit" "$@" &
    wait $! || status=$?
    case $status in
        0) ;;
        124 | 137) outcome="ran out of its $limit s" ;;
        *) outcome="failed with status $status" ;;
    esac
    ((status == 0)) || failed=1
    parts+=("$(printf '%5d s  %-20s %s' $((SECONDS - began)) "$name" "$outcome")")
}

# step PRESET SHARE: a training step of one micro-batch.
step() {
    run "step $1" "$2" python bench/bench_step.py --preset "$1" --accumulation 1 \
        --json "${prefix}step-$1.json" ${NANOGPT:+--nanogpt "$NANOGPT"}
}

everything() {
    trap 'kill $(jobs -p); exit 130' INT TERM # timeout has a process group of its own
    run parity 110 python -m pytest -q -m gpu tests
    step owt-30m 50
    step fineweb-40m 55
    step gpt2 65
    run attention 50 python bench/bench_attention.py
    run layer_norm 35 python bench/bench_layer_norm.py
    run gelu 20 python bench/bench_gelu.py
    run linear_cross_entropy 40 python bench/bench_linear_cross_entropy.py \
        --json "${prefix}linear_cross_entropy.json"
    # Last, since there is always another configuration to try.
    run tune 25 python -m pygpt.tune --seconds $((planned + 10 - SECONDS)) \
        --out "${prefix}launch.json"
    printf '\n=== where the time went\n'
    printf '%s\n' "${parts[@]}"
    printf '%5d s  in all; results: %s*\n' "$SECONDS" "$prefix"
    return "$failed"
}

everything 2>&1 | tee "${prefix}gpu.log"
