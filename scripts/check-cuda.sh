#!/usr/bin/env bash
# Checks of the CUDA back end. Usage: scripts/check-cuda.sh kernels|driver|gpu|types [--all] [--toolkit FOLDER] [--program FILE]
#
#   kernels   every kernel runs on this processor under tests/cuda/emulate.hpp, with the sanitizers of addresses and of
#             undefined behaviour, and is compared with plain loops; then it is compiled for A100 to H100, where no
#             register may spill. Last line: kernels, shapes, worst error, registers, spills.
#   driver    the whole program on a driver, cuBLAS and cuRAND that are played on this processor (tests/cuda/driver):
#             every operation and a recorded training step in every precision (--all: all recorded cases, a training and
#             a picture with what it learnt, which takes hours), pictures on one card, on two, and on two of which one is
#             full; then what a step and a picture at the sizes of Stable Diffusion 1.4 ask for, counted and not
#             computed. Needs no nvcc. Last line: checks passed, and what a step asks of the driver.
#   gpu       on a machine with a GPU: every operation and recorded case in every precision, speeds beside the card's
#             limits, NVIDIA's sanitizer, a profile of the heaviest kernels. It needs the program (FILE, else
#             target/release/eqdiff), which may have been built elsewhere, and neither Rust nor a network. Last: a table.
#   types     cargo check --features cuda. candle's own kernels are compiled too: minutes.
#
# nvcc comes from PyPI, into FOLDER (target/cuda-toolkit), unless there is one.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-} kinds=first_step toolkit=target/cuda-toolkit program=target/release/eqdiff
shift || true
while [ $# -gt 0 ]; do
    case $1 in
    --all) kinds= && shift ;;
    --toolkit) toolkit=$2 && shift 2 ;;
    --program) program=$2 && shift 2 ;;
    *) what= && break ;;
    esac
done
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

# What a case asks for at the sizes of Stable Diffusion 1.4, as a table; its last line has the sums.
counted() { # case
    "$eqdiff" bench --count --base random-sd14 --device cuda --dtype bf16 --case "$1" | tee "target/cuda/count-$1.txt"
}

# The pictures of a call with so many cards, into a folder of the name; how many of them launched anything.
drawn() { # cards, name
    PLAYED_CARDS=$1 PLAYED_REPORT="$folder/report-$2" "$eqdiff" sample --no-adapter --base mini --device cuda --steps 1 \
        --size 64x64 --prompt 'a red ball' --count 9 --out "$folder/$2" 2>&1 > /dev/null | tee "$folder/said-$2" >&2
    grep -c '^card [0-9]* [1-9]' "$folder/report-$2"
}

driver() {
    played
    local dtype passed=0 step cards way
    for dtype in f32 tf32 bf16; do
        "$eqdiff" doctor --device cuda --dtype $dtype > target/cuda/doctor-$dtype.txt || { grep FAILED target/cuda/doctor-$dtype.txt >&2; return 1; }
        passed=$((passed + $(grep -c '^ok' target/cuda/doctor-$dtype.txt)))
        "$eqdiff" verify --device cuda --dtype $dtype ${kinds:+--only $kinds} > target/cuda/verify-$dtype.txt ||
            { grep FAILED target/cuda/verify-$dtype.txt >&2; return 1; }
        tail -1 target/cuda/verify-$dtype.txt | sed "s/^/$dtype: /"
        passed=$((passed + $(tail -1 target/cuda/verify-$dtype.txt | cut -d' ' -f1)))
    done
    folder=$(mktemp -d)
    if [ -z "$kinds" ]; then
        "$eqdiff" train --subject clock --num-class-images 0 --device cuda --steps 1 --out "$folder/adapter" > /dev/null
        for way in '' --dreammatcher; do
            "$eqdiff" sample --adapter "$folder/adapter" --device cuda --steps 3 --prompt 'a S* clock' $way --out "$folder/drawn" > /dev/null
        done
    fi
    if PLAYED_CAPABILITY=75 "$eqdiff" doctor --device cuda > "$folder/old" 2>&1 || ! grep -q 'capability is 7.5' "$folder/old"; then
        echo "a GPU that is too old was taken" >&2
        return 1
    fi
    for cards in 1 2; do
        [ "$(drawn $cards $cards)" = $cards ] || { echo "of $cards cards not all drew" >&2; return 1; }
    done
    [ "$(PLAYED_FULL=1 drawn 2 full)" = 1 ] && grep -q 'cuda:1 draws no more.*out of memory' "$folder/said-full" ||
        { echo "a card without memory drew, or nobody was told that it did not" >&2; return 1; }
    grep -q '^card 1 [0-9]* 0$' "$folder/report-2" || { echo "the second card's memory was not given back" >&2; return 1; }
    for cards in 2 full; do
        diff -r --exclude='contact-sheet.png' "$folder/1" "$folder/$cards"
    done
    echo "two cards draw the pictures that one draws, also if one of them has no memory"
    rm -r "$folder"
    counted sample_ref
    counted eqdiff_step
    step=$(tail -1 target/cuda/count-eqdiff_step.txt)
    echo "$passed checks passed; a step at the sizes of Stable Diffusion 1.4: $step"
    awk '{ exit $1 > 3000 || $9 > 1 || $12 > 12 }' <<< "$step"
}

gpu() {
    local out=target/cuda/gpu dtype card wheels tool verdict line name seconds peak
    [ -x "$program" ] || { echo "there is no $program: see docs/cuda.md for how it is built and carried here" >&2; return 1; }
    # CUDA's libraries are those of PyTorch's wheels where there are no others
    wheels=$(python3 -c 'import glob, site
print(":".join(p for s in site.getsitepackages() for p in glob.glob(s + "/nvidia/*/lib")))' 2> /dev/null || true)
    export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}${wheels:+:$wheels}
    mkdir -p $out
    card=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -1)
    local rows=()
    for dtype in f32 tf32 bf16; do
        "$program" doctor --device cuda --dtype $dtype --speed > $out/doctor-$dtype.txt && verdict=right || verdict='NOT RIGHT'
        rows+=("operations in $dtype|$verdict; worst $(awk '$1 == "ok" || $1 == "FAILED" { print $2 }' $out/doctor-$dtype.txt | sort -g | tail -1)")
        "$program" verify --device cuda --dtype $dtype > $out/verify-$dtype.txt || true
        rows+=("recorded cases in $dtype|$(tail -1 $out/verify-$dtype.txt)")
    done
    while read -r line; do
        rows+=("${line#*)  }|${line%%(*}")
    done < <(grep ' at best ' $out/doctor-bf16.txt)
    for dtype in bf16 tf32; do
        "$program" bench --device cuda --dtype $dtype --base random-sd14 --case unet_b2,vae_dec,sample,sample_ref,eqdiff_step > $out/bench-$dtype.txt
        while read -r name seconds peak _; do
            rows+=("$name in $dtype|$seconds s, peak $peak GiB")
        done < <(tail -n +2 $out/bench-$dtype.txt)
    done
    "$program" bench --device cuda --dtype bf16 --base random-sd14 --case eqdiff_step --runs 600 --json > $out/steps.txt
    rows+=("600 steps in bf16|$(python3 -c 'import json, sys; print(round(sum(json.load(open(sys.argv[1]))["runs"]), 1))' $out/steps.txt) s")
    for tool in memcheck racecheck; do
        if command -v compute-sanitizer > /dev/null; then
            compute-sanitizer --tool $tool --error-exitcode 9 "$program" doctor --device cuda --dtype bf16 > $out/$tool.txt 2>&1 || true
            rows+=("compute-sanitizer, $tool|$(grep 'SUMMARY' $out/$tool.txt | tail -1 | sed 's/=*//g')")
        else
            rows+=("compute-sanitizer, $tool|skipped: it is not on this machine")
        fi
    done
    if command -v ncu > /dev/null; then
        ncu --clock-control none --set full -k 'regex:convolve_normed_bf16|attend_40|attend_48|attend_keys_48' --launch-count 6 \
            "$program" bench --here --device cuda --dtype bf16 --base random-sd14 --case eqdiff_step --runs 1 > $out/ncu.txt 2>&1 || true
        rows+=("ncu|in $out/ncu.txt")
    else
        rows+=("ncu|skipped: it is not on this machine")
    fi
    if python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2> /dev/null; then
        python3 scripts/torch_speed.py > $out/torch.txt
        while IFS= read -r line; do rows+=("PyTorch: ${line#*  }|${line%%  *}"); done < $out/torch.txt
    else
        rows+=("PyTorch's twin|skipped: there is no PyTorch with CUDA")
    fi
    { echo "| $card | |"; echo "|---|---|"; printf '%s\n' "${rows[@]}" | sed 's/^/| /; s/|\([^|]*\)$/| \1 |/'; } | tee $out/table.md
    ! grep -q 'NOT RIGHT' $out/table.md && ! grep -hq FAILED $out/verify-*.txt
}

case $what in
kernels | driver | gpu | types) $what ;;
*) sed -n '2,/^set/p' "$0" | grep '^#' | cut -c3- >&2 && exit 2 ;;
esac
