#!/usr/bin/env bash
# Checks of the CUDA back end on a machine without a GPU. Usage: scripts/check-cuda.sh kernels|driver|types [FOLDER]
#
#   kernels   every kernel runs on this processor under tests/cuda/emulate.hpp, with the sanitizers of addresses and of
#             undefined behaviour, and is compared with plain loops; then it is compiled for A100 to H100, where no
#             register may spill. Last line: kernels, shapes, worst error, registers, spills.
#   driver    the whole program on a driver, cuBLAS and cuRAND that are played on this processor (tests/cuda/driver):
#             `verify` in every precision, a training step, a picture; then a step at the sizes of Stable Diffusion 1.4,
#             counted and not computed. Needs no nvcc. Last line: checks passed, and what a step asks of the driver.
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

# Compiles every kernel to the PTX that the program embeds, and that for all targets, as their drivers will; a line a kernel
# and target in target/cuda/compiled.txt.
compiled() {
    local kernel target
    : > target/cuda/compiled.txt
    for kernel in src/ops/cuda/*.cu; do
        nvcc -std=c++17 -O3 -arch=compute_80 --ptx "$kernel" -o target/cuda/kernel.ptx
        for target in sm_80 sm_86 sm_89 sm_90; do
            ptxas -v -arch=$target target/cuda/kernel.ptx -o target/cuda/kernel.cubin 2> target/cuda/ptxas.txt ||
                { cat target/cuda/ptxas.txt >&2; return 1; }
            awk -v target=$target '
                /Compiling entry function/ { split($0, part, "\x27"); name = part[2] }
                /bytes spill stores/ { for (i = 1; i < NF; i++) if ($(i + 2) == "spill") spilled += $i }
                /Used [0-9]+ registers/ {
                    for (i = 1; i < NF; i++) if ($i == "Used") print target, name, $(i + 1), spilled + 0
                    spilled = 0
                }' target/cuda/ptxas.txt >> target/cuda/compiled.txt
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

# The program with feature cuda, which finds the played driver; a stand-in for nvcc makes modules that nobody reads.
played() {
    local played=$PWD/target/cuda/played cudarc
    mkdir -p "$played/bin"
    ln -sf "$PWD/tests/cuda/driver/nvcc" "$played/bin/nvcc"
    export PATH="$played/bin:$PATH" CUDA_COMPUTE_CAP=80
    unset CUDA_HOME NVCC
    cudarc=$(cargo metadata --format-version 1 --features cuda | grep -oE '"[^"]*/cudarc-[0-9.]+/Cargo.toml"' | head -1 | tr -d '"')
    tests/cuda/driver/build.sh "$(dirname "$cudarc")" "$played"
    cargo build --features cuda --bin eqdiff
    export LD_LIBRARY_PATH=$played
    eqdiff=$PWD/target/debug/eqdiff
}

# What a run of `bench` asks of the driver, by name: the difference between three timed runs and one, halved.
counted() { # case
    local runs
    for runs in 1 3; do
        PLAYED_RUN=0 PLAYED_REPORT=target/cuda/count.$runs "$eqdiff" bench --base random-sd14 --device cuda --dtype bf16 --here \
            --case "$1" --runs $runs > /dev/null 2> target/cuda/bench.txt || { cat target/cuda/bench.txt >&2; return 1; }
    done
    awk '
        FNR == NR { if ($1 !~ /call|kernel/) one[$1] = $2; next }
        $1 in one { count[$1] = $1 == "peak_gib" ? $2 : ($2 - one[$1]) / 2 }
        END {
            printf "%d launches, %d products of %.2f TFLOP, %d allocations, %d uploads, %d synchronisations, peak %.2f GiB\n",
                count["launches"], count["products"], count["products_tflop"], count["allocations"], count["uploads"], \
                count["synchronisations"], count["peak_gib"]
            exit count["launches"] > 3000 || count["synchronisations"] > 1 || count["peak_gib"] > 12
        }' target/cuda/count.1 target/cuda/count.3
}

driver() {
    played
    local dtype passed=0 folder
    for dtype in f32 tf32 bf16; do
        "$eqdiff" verify --device cuda --dtype $dtype > target/cuda/verify-$dtype.txt || [ $dtype = bf16 ]
        tail -1 target/cuda/verify-$dtype.txt | sed "s/^/$dtype: /"
        passed=$((passed + $(tail -1 target/cuda/verify-$dtype.txt | cut -d' ' -f1)))
    done
    # in f32 and TF32 nothing may fail; of bf16, docs/cuda.md says what does
    if grep -h FAILED target/cuda/verify-f32.txt target/cuda/verify-tf32.txt; then return 1; fi
    folder=$(mktemp -d)
    "$eqdiff" train --subject clock --device cuda --steps 1 --out "$folder/adapter" > /dev/null
    "$eqdiff" sample --adapter "$folder/adapter" --device cuda --steps 2 --prompt 'a S* clock' --out "$folder/picture.png" > /dev/null
    rm -r "$folder"
    local step
    step=$(counted eqdiff_step)
    echo "$passed checks passed; a step at the sizes of Stable Diffusion 1.4: $step"
}

case $what in
kernels | driver | types) $what ;;
*) sed -n '2,/^set/p' "$0" | grep '^#' | cut -c3- >&2 && exit 2 ;;
esac
