#!/usr/bin/env bash
# Proves with diffusers itself that pictures, adapters and samplers mean the same here and there.
#
#   scripts/interop/check.sh                  makes a Python environment in target/interop (torch and all: gigabytes)
#   PYTHON=python3 scripts/interop/check.sh   uses one that has requirements.txt
#   EQDIFF=path/to/eqdiff ...                 uses that program instead of building one
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv target/interop
    PYTHON=target/interop/bin/python
    "$PYTHON" -m pip install --quiet -r scripts/interop/requirements.txt
fi
if [ -z "${EQDIFF:-}" ]; then
    cargo build --release
    EQDIFF=target/release/eqdiff
fi
exec "$PYTHON" scripts/interop/check.py "$EQDIFF" "$@"
