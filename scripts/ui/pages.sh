#!/usr/bin/env bash
# Opens reports in headless Chromium: each within 2 s, nothing fetched, nothing sticking out, axe finds nothing.
# Usage: pages.sh REPORT.html...; without one, a study's page of a thousand pictures is made (cargo test --test study_page).
# Screenshots at 1280 and 390 pixels, light and dark, go to scripts/ui/scratch/screens.
set -euo pipefail
source "$(dirname "$0")/browser.sh"
if [ $# = 0 ]; then
  root=$(cd "$(dirname "$0")/../.." && pwd)
  (cd "$root" && cargo test --quiet --test study_page)
  set -- "$root/target/tmp/study-page/report.html"
fi
exec node "$(dirname "$0")/pages.mjs" "$@"
