#!/usr/bin/env bash
# Drives `eqdiff ui` in a headless browser through the whole way, on a fresh machine (Debian, root, package registries).
# Screenshots of every screen at 1280 and 390 pixels, light and dark, go to scripts/ui/scratch/screens.
# EQDIFF names the program to check; without it a release build is made.
set -euo pipefail
cd "$(dirname "$0")"
command -v chromium > /dev/null || {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core > /dev/null
}
command -v npm > /dev/null || {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm > /dev/null
}
[ -d node_modules/playwright-core ] || npm install --no-audit --no-fund --silent
if [ -z "${EQDIFF:-}" ]; then
  cargo build --release
  EQDIFF=$(cd ../.. && pwd)/target/release/eqdiff
fi
export EQDIFF
rm -rf scratch
mkdir -p scratch/screens
exec node check.mjs
