#!/usr/bin/env bash
# Measure on a GPU all that docs/benchmarks/gpu.md has tables for; the output goes to a file for each measurement.
#
#   tools/benchmark_gpu.sh [--dry-run] [FOLDER]      (default: output/benchmark_gpu)
#
# --dry-run prints the commands. PY names another Python than .venv/bin/python. A measurement that fails is named
# at the end, and the others go on.
set -uo pipefail
FROM=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PY=${PY:-.venv/bin/python}
DRY=
if [ "${1:-}" = --dry-run ]; then DRY=1; shift; fi
OUT=${1:-$PWD/output/benchmark_gpu}
case $OUT in /*) ;; *) OUT=$FROM/$OUT ;; esac
FAILED=()

if [ -z "$DRY" ]; then
    "$PY" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        { echo "error: $PY finds no CUDA device" >&2; exit 1; }
    mkdir -p "$OUT" || exit 1
fi

# measure NAME ARGUMENTS...: run tools/benchmark.py and keep what it prints in $OUT/NAME.txt.
measure() {
    local name=$1
    shift
    if [ -n "$DRY" ]; then
        printf 'tools/benchmark.py'
        printf ' %q' "$@"
        echo
    elif ! "$PY" tools/benchmark.py "$@" 2>&1 | tee "$OUT/$name.txt"; then
        FAILED+=("$name")
    fi
}

# Trunks: training steps of all methods, inference, kernels, and the counted budget to compare them with.
trunk() {
    local name=$1 batch
    shift
    for batch in 4 16 1; do
        measure "step-$name-$batch" step --trunk "$name" --size "$@" --batch $batch --dtype bf16 --repeats 8 \
            --no-1024 --method Mona LoRA --json
    done
    measure "infer-$name" infer --trunk "$name" --size "$@" --batch 4 --dtype bf16 --repeats 8 --json
    measure "profile-$name" profile --trunk "$name" --size "$@" --batch 4 --dtype bf16 --repeats 8 --json
    measure "budget-$name" budget --trunk "$name" --size "$@" --batch 4 --dtype bf16 --method IVTuning Mona LoRA \
        --json
}

trunk vitdet_b 1024
trunk swin_l_w12 480 640
trunk vitdet_l 1024

# Whole models, with the heads and the trainer.
for config in M3FD/dino_ivtuning_swin_l M3FD/codetr_ivtuning_swin_l; do
    measure "model-$(basename $config)" model --config-file configs/$config.py --size 640 --batch 2 --repeats 8 \
        --json train.precision=bf16
done
for config in MSRS/segformer_ivtuning_vit_l MSRS/segformer_ivtuning_swin_l; do
    measure "model-$(basename $config)" model --config-file configs/$config.py --size 480 640 --batch 4 \
        --repeats 8 --json train.precision=bf16
done

if [ ${#FAILED[@]} -gt 0 ]; then
    echo "error: failed: ${FAILED[*]}; see the files in $OUT" >&2
    exit 1
fi
