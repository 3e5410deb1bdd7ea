#!/usr/bin/env bash
# Drives `eqdiff ui` in a headless browser through the whole way, on a fresh machine (Debian, root, package registries).
# Screenshots of every screen at 1280 and 390 pixels, light and dark, go to scripts/ui/scratch/screens.
# EQDIFF names the program to check; without it a release build is made.
set -euo pipefail
cd "$(dirname "$0")"
source ./browser.sh
if [ -z "${EQDIFF:-}" ]; then
  cargo build --release
  EQDIFF=$(cd ../.. && pwd)/target/release/eqdiff
fi
export EQDIFF
rm -rf scratch
mkdir -p scratch/screens
exec node check.mjs
