#!/usr/bin/env bash
# Checks of the CUDA back end on a machine without a GPU. Usage: scripts/check-cuda.sh kernels|types [FOLDER]
#
#   kernels   every kernel runs on this processor under tests/cuda/emulate.hpp, with the sanitizers of addresses and of
#             undefined behaviour, and is compared with plain loops; then nvcc compiles it for A100 to H100, where no
#             register may spill. Last line: kernels, shapes, worst error, registers, spills.
#   types     cargo check --features cuda. candle's own kernels are compiled too: minutes.
#
# nvcc comes from PyPI, into FOLDER (target/cuda-toolkit), unless there is one.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-} toolkit=${2:-target/cuda-toolkit}
mkdir -p target/cuda

find_nvcc() {
    command -v nvcc > /dev/null && return
    [[ $toolkit = /* ]] || toolkit="$PWD/$toolkit"
    export CUDA_HOME="$toolkit/nvidia/cu13"
    export PATH="$CUDA_HOME/bin:$PATH"
    [ -x "$CUDA_HOME/bin/nvcc" ] || python3 -m pip install --quiet --target "$toolkit" \
        'nvidia-cuda-nvcc==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-crt==13.0.*' \
        'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*'
}

# Runs every check of tests/cuda; what each says goes to target/cuda/emulated.txt.
emulated() {
    local compiler=${CXX:-c++} check
    : > target/cuda/emulated.txt
    for check in tests/cuda/*.cpp; do
        "$compiler" -std=c++17 -O1 -g -fno-strict-aliasing -fsanitize=address,undefined -fno-sanitize-recover=all \
            -Wno-unknown-pragmas "$check" -o target/cuda/check
        # fibers change stacks, which the sanitizer takes for a use after return
        ASAN_OPTIONS=detect_stack_use_after_return=0:detect_leaks=0 target/cuda/check | tee -a target/cuda/emulated.txt
    done
}

# Compiles every kernel for all targets; a line a kernel and target in target/cuda/compiled.txt.
compiled() {
    local kernel target
    : > target/cuda/compiled.txt
    for kernel in src/ops/cuda/*.cu; do
        for target in sm_80 sm_86 sm_89 sm_90; do
            nvcc -std=c++17 -O3 -arch=$target -Xptxas -v -cubin "$kernel" -o target/cuda/kernel.cubin 2> target/cuda/nvcc.txt ||
                { cat target/cuda/nvcc.txt >&2; return 1; }
            awk -v target=$target '
                /Compiling entry function/ { split($0, part, "\x27"); name = part[2] }
                /bytes spill stores/ { for (i = 1; i < NF; i++) if ($(i + 2) == "spill") spilled += $i }
                /Used [0-9]+ registers/ {
                    for (i = 1; i < NF; i++) if ($i == "Used") print target, name, $(i + 1), spilled + 0
                    spilled = 0
                }' target/cuda/nvcc.txt >> target/cuda/compiled.txt
        done
    done
}

kernels() {
    find_nvcc
    emulated
    compiled
    sort -k3n target/cuda/compiled.txt | tail -3
    awk '
        FILENAME ~ /emulated/ { shapes += $2; for (i = 1; i < NF; i++) if ($i == "worst" && $(i + 2) > worst) worst = $(i + 2) }
        FILENAME ~ /compiled/ { all[$2] = 1; if ($3 > registers) registers = $3; spilled += $4 }
        END {
            for (name in all) count++
            printf "%d kernels for 4 targets, %d shapes, worst error at %d %% of its bound, at most %d registers, %d bytes spilled\n", \
                count, shapes, worst, registers, spilled
            exit spilled > 0 || count == 0 || shapes == 0
        }' target/cuda/emulated.txt target/cuda/compiled.txt
}

types() {
    find_nvcc
    CUDA_COMPUTE_CAP=80 cargo check --features cuda
}

case $what in
kernels | types) $what ;;
*) sed -n '2,/^set/p' "$0" | grep '^#' | cut -c3- >&2 && exit 2 ;;
esac
