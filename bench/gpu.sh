#!/usr/bin/env bash
# Parity of the kernels on this machine's card, then every kernel benchmark: under 8 minutes.
# Results: bench/results/<card>-<date>-<name>.json, with a plot beside each.
#
#   bash bench/gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONUNBUFFERED=1

python -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "bench/gpu.sh needs a CUDA device and there is none")' || exit 2

timeout 180 python -m pytest -q -m gpu tests
for name in attention layer_norm gelu; do
    timeout 75 python "bench/bench_$name.py"
done
card=$(python -c 'import torch; print(torch.cuda.get_device_name().replace("NVIDIA", "").strip().replace(" ", "-").lower())')
results="bench/results/$card-$(date +%F)"
timeout 60 python bench/bench_linear_cross_entropy.py --json "$results-linear_cross_entropy.json"
