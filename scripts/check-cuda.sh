#!/usr/bin/env bash
# Type-checks the cuda feature on a machine without a GPU. The compiler comes from PyPI; candle's kernels
# take about seven minutes on two cores. Usage: scripts/check-cuda.sh [FOLDER FOR THE COMPILER]
set -euo pipefail
cd "$(dirname "$0")/.."
toolkit=${1:-target/cuda-toolkit}
if [ ! -x "$toolkit/nvidia/cu13/bin/nvcc" ]; then
    python3 -m pip install --quiet --target "$toolkit" \
        'nvidia-cuda-nvcc==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-crt==13.0.*' \
        'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*'
fi
export CUDA_HOME="$PWD/$toolkit/nvidia/cu13" CUDA_COMPUTE_CAP=80
[[ $toolkit = /* ]] && export CUDA_HOME="$toolkit/nvidia/cu13"
export PATH="$CUDA_HOME/bin:$PATH"
cargo check --features cuda
